"""The grammar of an experiment's file."""
