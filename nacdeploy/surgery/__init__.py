"""Surgery on networks: pure functions on `nn.Module`."""
