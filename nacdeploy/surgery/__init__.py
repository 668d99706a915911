"""Surgery on networks: pure functions on `nn.Module`, and the attachments that travel beside a plain network."""
