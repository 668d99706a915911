"""Search: the rules, the engine, what it observes and its journal, which survives a kill."""
