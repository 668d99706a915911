"""The graph of an ONNX file before torch sees it: read, its decided conditions folded, tied, lifted."""
