"""The trial of a chain in a search: figures, times, workers, and the full count at the end."""
