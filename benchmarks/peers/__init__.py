"""nacdeploy against its peers: `make bench-peers`, or `python -m benchmarks.peers`."""
