"""What runs inside Triton's Python backend: copied into a repository, so it imports nothing of this package."""
