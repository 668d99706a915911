"""Compression experiments."""
