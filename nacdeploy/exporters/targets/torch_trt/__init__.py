"""A torch program with TensorRT engines inside, by torch-tensorrt."""
