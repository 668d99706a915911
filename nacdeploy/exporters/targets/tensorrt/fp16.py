"""The float rest of a graph in FP16: TensorRT 11 is strongly typed, so float parts in FP32 run in FP32.

Scales and the outputs of DequantizeLinear become FP16 like all else. No operator overflows there: TensorRT and ONNX
Runtime compute LayerNormalization in FP32 inside (`stash_type`), and a softmax is taken of differences from its
maximum. Values below 6e-8 are lost: the parity of the FP16 graph, in ONNX Runtime, shows the cost.
"""

from typing import Literal

import onnx

FloatType = Literal["fp32", "fp16"]


def fp16_rest(model: onnx.ModelProto, io_type: FloatType = "fp32") -> onnx.ModelProto:
    """Return a copy of the graph with its float tensors in FP16, scales included; inputs and outputs are `io_type`."""
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(model, keep_io_types=io_type == "fp32")
    # The converter appends its casts at the end, which is no valid order of nodes.
    sortable = onnx_ir.serde.deserialize_model(converted)
    sortable.graph.sort()
    return onnx_ir.serde.serialize_model(sortable)
