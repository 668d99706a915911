"""TensorRT engines, by TensorRT itself or ahead of time by TensorRT-RTX."""
