"""From a network to an ONNX graph: traced once, lowered for every choice of precision."""
