"""Cascades: a network in segments with an exit behind each. Numbers and functions alone: numpy, no torch, no ONNX.

`confidence` and `cascade` import nothing of this package, so that their text can be copied to wherever a cascade runs.
"""
