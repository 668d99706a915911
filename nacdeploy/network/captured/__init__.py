"""The captured graph of a network: its forward pass, node by node."""
