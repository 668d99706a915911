"""The attachments beside a plain network: quantizers, masks, shared values and exit heads, and their places."""
