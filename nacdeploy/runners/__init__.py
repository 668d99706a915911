"""Runners load an artifact's model and run it: one file per runtime."""
