"""A plain network with its attachments, and what it costs."""
