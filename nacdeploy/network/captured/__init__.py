"""The captured graph of a network: what its forward pass runs, node by node."""
