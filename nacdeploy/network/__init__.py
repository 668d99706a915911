"""A plain network with its attachments, and its cost."""
