"""The memory of searches: what was trained before is loaded."""
