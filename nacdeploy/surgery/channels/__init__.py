"""Channels that fall together: which there are, which go, and the cut."""
