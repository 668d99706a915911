"""The times of networks on a target: of whole networks, and of their layers by width, measured once and kept."""
