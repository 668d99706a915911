"""Channels that fall together: the groups, the choice of channels to cut, and the cut."""
