"""The programs inside Triton's Python backend: copied into a repository, so they import nothing of this package."""
