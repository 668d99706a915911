"""Networks of equal measured time, whoever made them: `python -m benchmarks.honest`, part of `make bench-peers`."""
