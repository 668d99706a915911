"""Errors, files, records, precisions and clocks, which every room uses; this room imports no other."""
