"""D: `settings` is its table, `operator` its effect."""
