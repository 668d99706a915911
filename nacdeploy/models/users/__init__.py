"""A user's own file: found with its imports, read unrun, trusted, and only then run."""
