"""Steps of a chain: its operators made, taken, guarded, followed and saved."""
