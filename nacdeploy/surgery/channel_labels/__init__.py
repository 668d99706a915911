"""Which channels lie along which axis of a captured network."""
