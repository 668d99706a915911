"""ONNX's own tests of its operators: what is read is right, and what is not is refused by name."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from nacdeploy.models.from_onnx.layers import LAYERS
from nacdeploy.models.from_onnx.module import _KNOWN, OnnxModule, UnreadError

READ = {*_KNOWN, *LAYERS, "Constant"}
OF_FLOATS = ("test_quantizelinear", "test_dequantizelinear")  # the float network is read: nothing is rounded
ANY_ORDER = ("test_top_k_same_values", "test_top_k_same_values_largest", "test_top_k_same_values_2d")
AT_LEAST = 700  # of ONNX 1.23's tests are computed here


def test_operators_that_are_read_answer_as_onnx_says() -> None:
    wrong, n_right, refused = [], 0, dict[str, str]()
    for case in _cases():
        if case.name.startswith(OF_FLOATS) or case.name in ANY_ORDER:
            continue
        (first, *others), wanted = case.data_sets[0]
        try:
            answers = _answers(case.model, case.name, first, others)
        except UnreadError as error:
            refused[case.name] = str(error)
            continue
        if _same(answers, wanted):
            n_right += 1
        else:
            wrong.append(case.name)
    assert not wrong
    assert n_right >= AT_LEAST
    assert "its attribute 'left_window_size' is not read here" in refused["test_attention_local_window"]
    assert all("\n" not in text for text in refused.values())


def _cases() -> Iterator[Any]:
    """Yield the tests of operators that are read, on numbers that torch has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in {each.name: each for each in collect_testcases(None)}.values():
            inputs, outputs = case.data_sets[0]
            values = [*inputs, *outputs]
            if (
                inputs
                and {node.op_type for node in case.model.graph.node} <= READ
                and all(isinstance(x, np.ndarray) and x.dtype.name in _KINDS for x in values)
            ):
                yield case


_KINDS = {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"}


def _answers(model: onnx.ModelProto, name: str, first: Any, others: list[Any]) -> list[Any]:
    """Return the outputs where all inputs but the first are constants of the file."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    names = [each.name for each in own.graph.input]
    del own.graph.input[1:]
    own.graph.initializer.extend(numpy_helper.from_array(x, n) for x, n in zip(others, names[1:], strict=False))
    x = torch.from_numpy(np.array(first, dtype=np.float32 if first.dtype == np.float16 else first.dtype))
    with torch.no_grad():
        found = OnnxModule(own, name)(x)
    values = found.values() if isinstance(found, dict) else [found]
    return [(each if isinstance(each, torch.Tensor) else each.tensor()).numpy() for each in values]


def _same(answers: list[Any], wanted: list[Any]) -> bool:
    return len(answers) == len(wanted) and all(
        a.shape == b.shape and np.allclose(a.astype(float), b.astype(float), 1e-3, 1e-4, equal_nan=True)
        for a, b in zip(answers, wanted, strict=True)
    )
