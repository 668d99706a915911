"""A: learned ceilings of activations, as a package of its own beside nacdeploy."""
