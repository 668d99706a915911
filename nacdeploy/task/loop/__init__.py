"""The parts of our training loop: what is kept of a training that is under way."""
