"""What `benchmarks/coverage.py` is made of: the list of networks, the run, the report."""
