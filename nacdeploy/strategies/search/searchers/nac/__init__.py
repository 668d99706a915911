"""NAC's own searcher: its states and traces, and the agent that learns on them."""
