"""Exits that save time: segments in an artifact, their thresholds and times, and the artifact that answers by them."""
