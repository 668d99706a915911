"""What stands beside a plain network: quantizers, masks, shared values, exit heads, and where."""
