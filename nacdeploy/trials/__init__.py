"""How a search tries a chain: figures, times, workers, and the count in full at its end."""
