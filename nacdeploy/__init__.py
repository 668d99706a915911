"""nacdeploy: find, transfer and deploy chains of network compression techniques."""
