"""Q: `settings` is its table, `operator` what it does."""
