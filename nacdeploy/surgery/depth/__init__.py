"""Depth: residual branches that may leave a network, what each is worth, and their removal."""
