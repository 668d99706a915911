"""Whether the values that are fed are those of an ONNX file's training: 0 to 255 where 0 to 1 was is a usual slip.

Signs, from the surest: the file's own words, the statistics that its first batch norm remembers, how the first
convolution's answers compare with its offsets, and how sure the answers are. The first two refuse, the others are said.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nacdeploy.base.errors import UsageError
from nacdeploy.models.from_onnx.running import Part

Call = Mapping[str, NDArray[Any]]
_FAR, _NEAR = log(20.0), log(5.0)  # of a spread from the one that is remembered
_SURE = 0.02  # of the largest entropy: answers this sure are saturated
_UNIT, _BYTES = "0..1", "0..255"
_WORDS = (
    (_BYTES, re.compile(r"nominalrange_0_255|\b0\s*(?:-|to|,|\.\.|\u2013)\s*255\b")),
    (_UNIT, re.compile(r"normalized_0_1|nominalrange_0_1\b|\b0(?:\.0)?\s*(?:-|to|,|\.\.|\u2013)\s*1(?:\.0)?\b")),
)


@dataclass(frozen=True)
class _Fed:
    """An input as it is fed: its name, its range, and the factor to the other usual range."""

    name: str
    low: float
    high: float
    range: str
    other: str
    factor: float

    @property
    def said(self) -> str:
        """The values that are fed, in words."""
        return f"values {self.low:.3g} to {self.high:.3g} are fed to '{self.name}'"

    @property
    def remedy(self) -> str:
        """The way to change the range, in words."""
        by = "divide" if self.factor < 1 else "multiply"
        return f"set images.value_range = '{self.other}' for images, or {by} by 255"


def checked(model: onnx.ModelProto, calls: Sequence[Call], where: str) -> list[str]:
    """Return lines on the values that calls feed to a file, which errors call `where`.

    Raises:
        UsageError: the file says that it takes another range, or remembers statistics of it.
    """
    fed = _fed(model, calls)
    if fed is None:
        return []
    _check_words(model, fed)
    norm, conv = _first(model, "BatchNormalization"), _first(model, "Conv")
    if norm is not None:
        there, other = (_spread(model, norm, _scaled(calls, fed, by)) for by in (1.0, fed.factor))
        if _is_other(there, other):
            raise UsageError(
                f"{fed.said}, which spread {np.exp(abs(there)):.0f} times {'wider' if there > 0 else 'less'} in its "
                f"first batch norm than those of the training; {fed.other} would fit: {fed.remedy}"
            )
        return []
    if conv is not None and len(conv.input) > 2:
        there, other = (_offset_spread(model, conv, _scaled(calls, fed, by)) for by in (1.0, fed.factor))
        why = f"by its first convolution {fed.other} would fit better"
        return [f"CHECK THE RANGE: {fed.said}; {why}: {fed.remedy}"] if _is_other(there, other) else []
    here, elsewhere = (_entropy(Part(model, where), _scaled(calls, fed, by)) for by in (1.0, fed.factor))
    if here is not None and elsewhere is not None and here < _SURE < 4 * _SURE < elsewhere:
        return [f"CHECK THE RANGE: {fed.said}; every answer is saturated, at {fed.other} it is not: {fed.remedy}"]
    return []


def _fed(model: onnx.ModelProto, calls: Sequence[Call]) -> _Fed | None:
    """Return the first input of images or signals whose range is a usual one."""
    for value in model.graph.input:
        arrays = [call[value.name] for call in calls if value.name in call]
        if not arrays or arrays[0].dtype.kind != "f" or arrays[0].ndim < 3:
            continue
        low, high = min(float(x.min()) for x in arrays), max(float(x.max()) for x in arrays)
        if low >= 0 and 16 < high <= 255:
            return _Fed(value.name, low, high, _BYTES, _UNIT, 1 / 255)
        if low >= 0 and 0.2 < high <= 1:
            return _Fed(value.name, low, high, _UNIT, _BYTES, 255.0)
    return None


def _check_words(model: onnx.ModelProto, fed: _Fed) -> None:
    (given,) = (value for value in model.graph.input if value.name == fed.name)
    pairs = (f"{each.key} {each.value}" for each in model.metadata_props)
    texts = [given.doc_string, *(each.value for each in given.metadata_props)]
    texts += [text for text in pairs if "range" in text.lower()]
    said = {kind for kind, pattern in _WORDS for text in texts if pattern.search(text.lower())}
    if said == {fed.other}:
        raise UsageError(f"{fed.said}, and the file says that it takes {fed.other}: {fed.remedy}")


def _scaled(calls: Sequence[Call], fed: _Fed, by: float) -> list[Call]:
    return [{**call, fed.name: (call[fed.name] * by).astype(call[fed.name].dtype)} for call in calls]


def _first(model: onnx.ModelProto, op: str) -> onnx.NodeProto | None:
    """Return the first normalisation or convolution, if it is of this kind and has constant values."""
    constants = _constants(model)
    kinds = ("BatchNormalization", op)
    node = next((each for each in model.graph.node if each.op_type in kinds), None)
    fits = node is not None and node.op_type == op and all(name in constants for name in node.input[1:])
    return node if fits else None


def _values(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return np.asarray(numpy_helper.to_array(_constants(model)[name]), np.float64)


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    made = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    return made | {each.name: each for each in model.graph.initializer}


def _spread(model: onnx.ModelProto, norm: onnx.NodeProto, calls: Sequence[Call]) -> float:
    """Return the logarithm of how much wider values spread than the norm remembers, the median of channels."""
    remembered = np.sqrt(_values(model, norm.input[4]) + 1e-12)
    return float(np.median(np.log(_deviations(model, norm.input[0], calls) / remembered + 1e-12)))


def _offset_spread(model: onnx.ModelProto, conv: onnx.NodeProto, calls: Sequence[Call]) -> float:
    """Return the logarithm of how much wider a convolution's values spread than its offsets, the median of channels."""
    offsets = np.abs(_values(model, conv.input[2]))
    return float(np.log((np.median(_deviations(model, conv.output[0], calls)) + 1e-12) / (np.median(offsets) + 1e-6)))


def _is_other(there: float, other: float) -> bool:
    return abs(there) > _FAR and abs(other) < _NEAR


def _deviations(model: onnx.ModelProto, name: str, calls: Sequence[Call]) -> NDArray[Any]:
    """Return the standard deviation of each channel `(N, C, ...)` of a tensor."""
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    del watched.graph.output[:]
    watched.graph.output.append(onnx.ValueInfoProto(name=name))
    part = Part(watched, "the first layers")
    found = np.concatenate([part.run(call)[name] for call in calls]).astype(np.float64)
    spread: NDArray[Any] = found.std(axis=(0, *range(2, found.ndim)))
    return spread


def _entropy(part: Part, calls: Sequence[Call]) -> float | None:
    """Return the mean entropy of answers `(N, K)` as a fraction of the largest; None if there are none."""
    shares = []
    for call in calls:
        answer = np.asarray(next(iter(part.run(call).values())))
        if answer.ndim != 2 or answer.shape[1] < 2 or answer.dtype.kind != "f":
            return None
        x = answer.astype(np.float64)
        is_share = x.min() >= 0 and np.allclose(x.sum(1), 1, atol=1e-2)
        p = x if is_share else np.exp(x - x.max(1, keepdims=True))
        p = p / p.sum(1, keepdims=True)
        shares.append(float(-(p * np.log(p + 1e-30)).sum(1).mean() / log(x.shape[1])))
    return float(np.mean(shares))
