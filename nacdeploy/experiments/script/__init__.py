"""What a user's own script calls: a compressor around its model."""
