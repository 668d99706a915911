"""What is read from engines: TensorRT-RTX's text, and the inspector's JSON in its documented forms."""

import json

import pytest

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.targets.tensorrt import plan as trt_plan

# TensorRT 10's documentation, "Engine Inspector": the detailed form of one layer (its keys, formats and tactic names).
# "Metadata" holds the ONNX layers of a fusion, as the ONNX parser writes them.
TEN = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to node_c1",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "images", "Dimensions": [1, 3, 16, 16], "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "t", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
            "TacticName": "",
            "Metadata": "",
        },
        {
            "Name": "node_w1 + node_c1 + node_r1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "t", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
            "Outputs": [{"Name": "u", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
            "AllowSparse": 1,
            "TacticName": "sm80_xmma_fprop_sparse_conv_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32",
            "Metadata": "[ONNX Layer: node_w1]\u001e[ONNX Layer: node_c1]\u001e[ONNX Layer: node_r1]",
        },
        {
            "Name": "node_logits",
            "LayerType": "gemm",
            "Inputs": [{"Name": "u", "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "logits", "Format/Datatype": "N/A due to dynamic shapes"}],
            "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16",
            "Metadata": "[ONNX Layer: node_logits]",
        },
    ],
    "Bindings": ["images", "logits"],
}
# TensorRT 11's migration guide: "I/O Tensors" in place of "Bindings", and the field "Format/Datatype" split in two.
ELEVEN = {
    "Layers": [
        {
            "Name": "node_c1",
            "LayerType": "conv",
            "Inputs": [{"Name": "t", "DataType": "Int8", "Format": "Channel major (kCHW32)"}],
            "Outputs": [{"Name": "u", "DataType": "Half", "Format": "Row major linear FP16 format (kLINEAR)"}],
            "TacticName": "sm89_xmma_fprop_implicit_gemm_interleaved_i8i8",
            "Metadata": "[ONNX Layer: node_c1]",
        }
    ],
    "I/O Tensors": [{"Name": "images", "IOMode": "Input", "DataType": "Float"}],
}


def test_inspected_layer_tells_types_tactic_and_sparsity() -> None:
    reformat, convolution, product = trt_plan.inspected(json.dumps(TEN))
    assert reformat.is_reformat and (reformat.input_type, reformat.output_type) == ("float32", "int8")
    assert convolution.nodes == ("node_w1", "node_c1", "node_r1")
    assert (convolution.input_type, convolution.output_type, convolution.is_sparse) == ("int8", "int8", True)
    assert (product.input_type, product.output_type, product.is_sparse) == ("float16", "", False)


def test_precisions_name_the_nodes_of_layers_that_multiply() -> None:
    found = trt_plan.precisions(trt_plan.inspected(json.dumps(TEN)))
    assert found == {"node_w1": "int8", "node_c1": "int8", "node_r1": "int8", "node_logits": "float16"}


def test_inspected_reads_the_form_of_tensorrt_11() -> None:
    (layer,) = trt_plan.inspected(json.dumps(ELEVEN))
    assert (layer.input_type, layer.output_type, layer.is_reformat) == ("int8", "float16", False)
    assert trt_plan.precisions([layer]) == {"node_c1": "int8"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "no JSON with 'Layers'"),
        ("[]", "no JSON with 'Layers'"),
        ('{"Layers": ["node_c1 + node_r1"]}', "build it with profiling verbosity DETAILED"),
    ],
)
def test_inspected_refuses_another_form(text: str, message: str) -> None:
    with pytest.raises(NacdeployError, match=message):
        trt_plan.inspected(text)


@pytest.mark.parametrize("plan", [b"", b"\x00\xffno text\n", b'  tensor={ name="a" type=int8 }\n'])
def test_layer_types_knows_nothing_of_another_form(plan: bytes) -> None:
    assert trt_plan.layer_types(plan) == {}
