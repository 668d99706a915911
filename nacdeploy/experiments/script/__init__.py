"""The calls of a user's own script: a compressor around its model."""
