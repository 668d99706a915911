"""Search: the rules, the engine, its observations, and its journal, which survives a kill."""
