"""A network that was read from an ONNX file against the file itself in ONNX Runtime."""

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters import whole
from nacdeploy.exporters.artifacts.onnx_checks import snr_db
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.models.from_onnx import OnnxModule
from nacdeploy.models.from_onnx.graph import reading
from nacdeploy.models.ports import Ports, split
from nacdeploy.task.original import Original

LEAST_DB, EQUAL_DB = 60.0, 100.0
HALF_DB = 30.0  # of a file in half precision, whose own rounding counts
QUANTIZED_DB = 5.0  # of a file that rounds itself
BATCHES = (1, 3)


def check(original: Original, module: OnnxModule, ports: Ports, inputs: Tensor) -> str:
    """Compare a network with its file on packed inputs, alone and three at once; say how near they are.

    A file that is written for one batch answers one input after the other. The network of a file that is cut, or in
    half precision, is compared with its part of the graph, and the graph in parts with the file.

    Raises:
        NacdeployError: they differ; the first node that does is named.
    """
    path, parts = original.name.path, original.parts
    apart = parts.is_cut or bool(original.name.fixed) or reading.is_half(reading.as_written(path))
    runner = OnnxRunner(parts.network.SerializeToString() if apart else path, optimization="disabled")
    worst = min(_apart_db(runner, module, ports, inputs[:n]) for n in BATCHES)
    if module.is_quantized and worst >= QUANTIZED_DB:
        return (
            f"{path.name} holds quantised tensors, which are read as floats: {worst:.0f} dB apart by its own rounding"
        )
    if worst < LEAST_DB:
        first = _first_difference(parts.network, module, ports, inputs[:1])
        raise NacdeployError(
            f"{path} answers otherwise in ONNX Runtime than the network that was read from it ({worst:.1f} dB){first}; "
            "it is not used: please report the file"
        )
    if not apart:
        return f"the network that was read answers as {path.name} in ONNX Runtime, {min(worst, 150.0):.0f} dB"
    return (
        f"the network that was read answers as its part of {path.name} in ONNX Runtime, {min(worst, 150.0):.0f} dB; "
        f"{_as_the_file(original)}"
    )


def _as_the_file(original: Original) -> str:
    """Say how near the graph that was read is to the file, as a whole.

    Raises:
        NacdeployError: it differs.
    """
    path = original.name.path
    found = whole.compared(original.parts.whole.SerializeToString(), original)
    is_half = reading.is_half(reading.as_written(path))
    least = HALF_DB if is_half else LEAST_DB
    bad = [f"'{name}' {db:.1f} dB" for name, db in found.decibels.items() if db < least]
    bad += [f"'{name}' has other values or shapes" for name, share in found.equal.items() if share < 1 and not is_half]
    if bad:
        raise NacdeployError(
            f"{path} answers otherwise than the graph that was read from it ({', '.join(bad)}); it is not "
            "used: does it draw random numbers? Else please report the file"
        )
    return f"the whole graph as the file: {found}"


def _apart_db(runner: OnnxRunner, module: OnnxModule, ports: Ports, inputs: Tensor) -> float:
    arrays = _arrays(ports, inputs)
    expected = _run(runner, ports, arrays, module.batch)
    with torch.no_grad():
        found = module(*(torch.from_numpy(each) for each in arrays))
    answers = [found] if isinstance(found, Tensor) else list(found.values())
    pairs = zip(expected, answers, strict=True)
    return min(snr_db(a.astype(np.float64), b.numpy().astype(np.float64)) for a, b in pairs)


def _arrays(ports: Ports, inputs: Tensor) -> list[NDArray]:
    given = split(inputs, ports.inputs) if ports.packs else [inputs]
    return [np.ascontiguousarray(x.numpy(), dtype=port.dtype) for x, port in zip(given, ports.inputs, strict=True)]


def _run(runner: OnnxRunner, ports: Ports, arrays: list[NDArray], batch: int | None) -> list[NDArray]:
    names = [port.name for port in ports.inputs]
    n = len(arrays[0])
    if batch is None or batch == n:
        return runner.run(dict(zip(names, arrays, strict=True)))
    rows = [[a[[min(i + k, n - 1) for k in range(batch)]] for a in arrays] for i in range(0, n, batch)]
    answers = [runner.run(dict(zip(names, row, strict=True))) for row in rows]
    return [np.concatenate(column)[:n] for column in zip(*answers, strict=True)]


def _first_difference(network: onnx.ModelProto, module: OnnxModule, ports: Ports, inputs: Tensor) -> str:
    """Name the first node whose tensor differs."""
    model = onnx.ModelProto.FromString(network.SerializeToString())
    known = {each.name for each in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    extra = [onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in known]
    model.graph.output.extend(extra)
    arrays = dict(zip([port.name for port in ports.inputs], _arrays(ports, inputs), strict=True))
    try:
        runner = OnnxRunner(model.SerializeToString(), optimization="disabled")
        wanted = dict(zip(runner.output_names, runner.run(arrays), strict=True))
    except NacdeployError:
        return ""
    with torch.no_grad():
        found = module.trace(*(torch.from_numpy(each) for each in arrays.values()))
    makers = {name: node for node in model.graph.node for name in node.output}
    for name in names:
        value = found.get(name)
        if value is None or name not in wanted or not value.is_floating_point():
            continue
        if value.shape != wanted[name].shape or snr_db(wanted[name], value.numpy()) < EQUAL_DB:
            return f": first at node '{makers[name].name or name}' ({makers[name].op_type})"
    return ""
