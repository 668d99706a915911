"""Parity: the built graph against the network that simulates it, end to end and layer by layer.

Fake-quantized torch, ONNX Runtime with graph optimisations and without, and the target's own runtime (if it runs here)
answer the same images. If they differ, the first diverging node is named. Layer by layer, every quantized layer gets
the same integers as in the simulation: it may be off by one step of its output grid, the cost of rounding at the
boundary between two steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from nacdeploy.base.errors import NacdeployError
from nacdeploy.data import ImageSet
from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts import onnx_checks, origin
from nacdeploy.exporters.artifacts.artifact import Parity
from nacdeploy.exporters.onnx_graph.lowering import OnnxGraph
from nacdeploy.exporters.targets import Optimization
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import Maker, Runner
from nacdeploy.metrics import Metric
from nacdeploy.network.attachments.placement import padding_before
from nacdeploy.network.network import Network, Simulation
from nacdeploy.network.semantics import Use
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.strategies.settle import unquantized
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

N_LAYERWISE = 16
SLACK_DB, LEAST_DB = 1.0, 5.0
MOST_SLACK_DB = 6.0  # where chance explains it
CLEARLY_DB, ENOUGH_DB = 3.0, 40.0
SURELY = 2.0  # standard errors


@dataclass(frozen=True)
class Divergence:
    """The first node whose output differs from the simulation.

    Attributes:
        node: its ONNX name.
        origin: its torch layer, in words.
        tensor: the compared tensor.
        snr_db: the ratio of signal to error.
    """

    node: str
    origin: str
    tensor: str
    snr_db: float


@dataclass(frozen=True)
class Simulated:
    """The answers of the simulation to the validation images of a check: the network's own first, then the exits'."""

    network: Network
    task: Task
    images: ImageSet
    answers: Sequence[Tensor]

    @classmethod
    def of(cls, network: Network, task: Task, table: ExportTable) -> "Simulated":
        """Run the simulation on the first `n_parity` validation images."""
        images = _images(task, table)
        *exits, logits = evaluation.predict_exits(network, task.data, images)
        return cls(network, task, images, (logits, *exits))

    def compared(self, outputs: Sequence[NDArray], name: str, table: ExportTable) -> tuple[Parity, bool]:
        """Compare outputs (N, K) of a runtime with the answers; also tell whether they differ by more than the bounds
        of the profile and the simulation's own rounding allow."""
        found = _least(self.answers, outputs, name, self.task.metric)
        if self.network.exits or not self.network.quantizers:
            return found, _parts(self.answers, outputs, found, table, self.task.metric)
        plain, simulated = self._plain.numpy(), self.answers[0].numpy()
        if _parts(self.answers, outputs, found, table, self.task.metric):
            return found, not _errs_no_more(plain, simulated, outputs[0], self.task.metric)
        return found, _errs_clearly_more(plain, simulated, outputs[0])

    @cached_property
    def _plain(self) -> Tensor:
        return evaluation.predict(unquantized(self.network), self.task.data, self.images)


def _images(task: Task, table: ExportTable) -> ImageSet:
    return task.data.validation.subset(torch.arange(min(table.n_parity, len(task.data.validation))))


def check(
    network: Network, graph: OnnxGraph, task: Task, table: ExportTable, runtimes: Mapping[str, Maker]
) -> tuple[Parity, ...]:
    """Compare the graph with the simulating network on validation images, every output, once for each named runtime.

    The least agreement and the least ratio of any output count.

    Raises:
        NacdeployError: agreement or signal to noise ratio is below the profile's bound; the first diverging node is
            named.
    """
    simulated = Simulated.of(network, task, table)
    batches = [x.numpy() for x in evaluation.batches(task.data, simulated.images, 64)]
    found = []
    for name, runtime in runtimes.items():
        parity, is_apart = simulated.compared(run_all(runtime(graph.model), batches), name, table)
        if is_apart:
            divergence = first_divergence(network, graph, batches[0], runtime, table.min_snr_db)
            raise NacdeployError(_refusal(parity, divergence, table, task.metric))
        found.append(parity)
    return tuple(found)


def _parts(
    references: Sequence[Tensor], outputs: Sequence[NDArray], found: Parity, table: ExportTable, metric: Metric
) -> bool:
    """Tell whether outputs (N, K) differ from their references by more than the profile's bounds allow."""
    pairs = zip(references, outputs, strict=True)
    n_changed = max(n_surprising(reference.numpy(), output, metric) for reference, output in pairs)
    return disagrees(n_changed, found.n_images, table.min_agreement) or _snr_db(found) < table.min_snr_db


def _errs_no_more(plain: NDArray, reference: NDArray, output: NDArray, metric: Metric) -> bool:
    """Tell whether outputs (N, K) that differ from the simulation's have no larger error than the simulation itself.

    The error is measured against the same network in float, and no more answers may change. A float rest in half
    precision, or another order of sums, lets a value next to the boundary between two integers fall to its other side.
    If quantization itself is at few decibels, or the network amplifies what it is given, such flips cost as much as
    quantization, and are no less right: the distance from the float network counts. It is compared input by input,
    since a few inputs may hold most of it. Exits are not excused.
    """
    db, simulated_db = (onnx_checks.snr_db(plain, each) for each in (output, reference))
    changed, simulated = (n_surprising(plain, each, metric) for each in (output, reference))
    by_chance = math.sqrt(changed + simulated)
    if db < LEAST_DB or disagrees(changed - simulated - by_chance, len(plain), 1.0):
        return False
    if db < simulated_db - MOST_SLACK_DB:
        return False
    return db >= simulated_db - SLACK_DB or not _errs_surely_more(plain, reference, output)


def _errs_clearly_more(plain: NDArray, reference: NDArray, output: NDArray) -> bool:
    """Tell whether outputs within the bounds are nevertheless clearly further from the float network's than the
    simulation's are: a runtime that rounds what it should not."""
    db, simulated_db = (onnx_checks.snr_db(plain, each) for each in (output, reference))
    if db >= min(simulated_db - CLEARLY_DB, ENOUGH_DB):
        return False
    return db < simulated_db - MOST_SLACK_DB or _errs_surely_more(plain, reference, output)


def _errs_surely_more(plain: NDArray, reference: NDArray, output: NDArray) -> bool:
    """Tell whether the squared errors of outputs are larger than the simulation's by more than their differences, input
    by input, explain by chance."""
    exact = plain.reshape(len(plain), -1).astype(np.float64)
    errors = [np.square(each.reshape(len(exact), -1) - exact).sum(1) for each in (output, reference)]
    more = errors[0] - errors[1]
    return float(more.sum()) > SURELY * math.sqrt(float(np.square(more).sum()))


def n_surprising(reference: NDArray, output: NDArray, metric: Metric) -> int:
    """Count the rows (N, K) whose answer changes by more than noise explains.

    The other changed rows are near ties, which the ratio of signal to noise judges.
    """
    noise = float(np.sqrt(np.mean((reference.astype(np.float64) - output) ** 2)))
    return int((~metric.agrees(torch.from_numpy(reference), torch.from_numpy(output), noise)).sum())


def disagrees(n_changed: float, n_images: int, min_agreement: float) -> bool:
    """Tell whether more images change their answer than the bound and its standard error allow.

    Of few images one change is always allowed.
    """
    allowed = n_images * (1 - min_agreement)
    return n_changed > allowed + math.sqrt(max(allowed, 1.0))


def against_original(original: Network, graph: OnnxGraph, task: Task, table: ExportTable, runtime: Maker) -> Parity:
    """Compare the graph's own end with the float network at the chain's start, on the images of `check`.

    The difference is the total cost of letters and lowering.
    """
    images = _images(task, table)
    reference = evaluation.predict(original, task.data, images)
    batches = [x.numpy() for x in evaluation.batches(task.data, images, 64)]
    logits, *_ = run_all(runtime(graph.model), batches)
    return onnx_checks.parity(reference.numpy(), logits, "original", task.metric)


def run_all(runner: Runner, batches: Sequence[NDArray]) -> list[NDArray]:
    """Return all outputs of a runner over batches of images (N, C, H, W), each (sum of N, K)."""
    return [np.concatenate(column) for column in zip(*(runner.run(x) for x in batches), strict=True)]


def first_divergence(
    network: Network, graph: OnnxGraph, images: NDArray, runtime: Maker, limit_db: float
) -> Divergence | None:
    """Return the first quantized tensor or output, in order of execution, below `limit_db` against the simulation's,
    or None."""
    model = onnx.load_model_from_string(graph.model)
    readings, answers = _simulated(network, images)
    tensors = _own_tensors(graph, model, network, readings)
    inner = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors]
    model.graph.output.extend(inner)
    runner = runtime(model.SerializeToString())
    outputs = dict(zip(runner.output_names, runner.run(images), strict=True))
    tensors |= {name: value for name, value in zip(graph.outputs, answers, strict=False) if name in outputs}
    for tensor in [name for node in model.graph.node for name in node.output if name in tensors]:
        ratio_db = onnx_checks.snr_db(tensors[tensor].numpy(), outputs[tensor])
        if ratio_db < limit_db:
            node = _computing_node(model, tensor)
            return Divergence(node.name, origin.torch_layer(model, node), tensor, ratio_db)
    return None


def worst_steps(
    network: Network, graph: OnnxGraph, images: NDArray, optimization: Optimization = "all"
) -> dict[str, int]:
    """Return the largest distance between ONNX Runtime and the simulation, in steps of the output grid, by computing
    node.

    Both get the integers of the simulation for `images` (N, C, H, W). A node counts if it computes a quantized tensor
    from quantized tensors.
    """
    model = onnx.load_model_from_string(graph.model)
    makers = {name: node for node in model.graph.node for name in node.output}
    readings, _ = _simulated(network, images)
    uses, tensors = _first_uses(graph, readings).items(), _own_tensors(graph, model, network, readings)
    integers = {makers[tensor].input[0]: _integers(tensors[tensor], network, use) for tensor, use in uses}
    worst: dict[str, int] = {}
    for quantize in [makers[name] for name in integers]:
        segment = _segment(model, makers, quantize, integers.keys())
        if segment is None:
            continue
        given = [value.name for value in segment.graph.input]
        runner = OnnxRunner(segment.SerializeToString(), optimization=optimization)
        (answer,) = runner.run_feeds({name: integers[name] for name in given})
        distance = np.abs(answer.astype(np.int64) - integers[quantize.output[0]].astype(np.int64))
        node = _computing_node(model, quantize.output[0]).name
        worst[node] = max(worst.get(node, 0), int(distance.max()))
    return worst


def _first_uses(graph: OnnxGraph, readings: Mapping[Use, Tensor]) -> dict[str, Use]:
    """Return the first use of each dequantized tensor: a later one may be behind a padding that a convolution does."""
    found: dict[str, Use] = {}
    for use, tensor in graph.edges.items():
        if use in readings:
            found.setdefault(tensor, use)
    return found


def _own_tensors(
    graph: OnnxGraph, model: onnx.ModelProto, network: Network, readings: Mapping[Use, Tensor]
) -> dict[str, Tensor]:
    """Return the simulation's value of each dequantized tensor: what its first use reads, without the zeros that a
    convolution of the graph pads by itself and the network in front of it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes = {node.name: node for node in network.graph.nodes} if network.graph is not None else {}
    found = {}
    for tensor, use in _first_uses(graph, readings).items():
        source = makers.get(makers[makers[tensor].input[0]].input[0])  # in front of the pair
        is_padded = source is not None and source.op_type == "Pad"
        found[tensor] = readings[use] if is_padded else _inside(readings[use], padding_before(nodes[use[0]], use[1]))
    return found


def _inside(values: Tensor, pads: Sequence[int]) -> Tensor:
    """Return values without their padding, which is given as torch does: the last axis first, begin and end."""
    index = [slice(None)] * values.dim()
    for at, (begin, end) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        index[-1 - at] = slice(begin, values.shape[-1 - at] - end)
    return values[tuple(index)]


class _Recording(Simulation):
    """The simulation, which records the tensor at each use of a quantized tensor."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.read: dict[Use, Tensor] = {}

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        self.read[use] = super().edge(key, x, use)
        return self.read[use]


def _simulated(network: Network, images: NDArray) -> tuple[dict[Use, Tensor], list[Tensor]]:
    """Return the tensor at each use of a quantized tensor, and the outputs in the order of the graph's."""
    recording = _Recording(network)
    found: dict[str, Tensor] = {}
    with torch.inference_mode():
        x, heads = torch.from_numpy(images), network.heads
        logits = network.run(x, recording, lambda node, value: found.update({node: value}), set(heads))
        return recording.read, [logits, *(head(found[node]) for node, head in heads.items())]


def _integers(values: Tensor, network: Network, use: Use) -> NDArray:
    """Convert values on the grid of an edge to integers."""
    quantizer: nn.Module = network.quantizers[network.plan.inputs[use[0]][use[1]]]
    scale, zero_point = quantizer.scale_and_zero_point()  # type: ignore[operator]
    rounded = torch.round(values.double() / scale.double()) + zero_point
    return rounded.numpy().astype(np.uint8 if quantizer.affine else np.int8)


def _segment(
    model: onnx.ModelProto, makers: dict[str, onnx.NodeProto], quantize: onnx.NodeProto, integers: object
) -> onnx.ModelProto | None:
    """Return the part of the graph from integers to the integers of one edge, as a model, or None if floats enter
    it."""
    starts: set[str] = set()
    inside: set[str] = set()
    constants = {tensor.name for tensor in model.graph.initializer}
    waiting = [quantize]
    while waiting:
        node = waiting.pop()
        inside.update(node.output)
        for name in node.input:
            if name in integers:  # type: ignore[operator]
                starts.add(name)
            elif name in makers and not inside.intersection(makers[name].output):
                waiting.append(makers[name])
            elif name and name not in constants and name not in makers:
                return None
    nodes = [node for node in model.graph.node if inside.intersection(node.output)]
    used = {name for node in nodes for name in node.input}
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    zero_points = {node.output[0]: kinds[node.input[2]] for node in makers.values() if node.op_type == "QuantizeLinear"}
    graph = helper.make_graph(
        nodes,
        "segment",
        [helper.make_tensor_value_info(name, zero_points[name], None) for name in sorted(starts)],
        [helper.make_tensor_value_info(quantize.output[0], zero_points[quantize.output[0]], None)],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _computing_node(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    """Return the node whose result a Q/DQ pair rounds.

    If there is one multiplication since the last quantized tensors, it is that; else the node just before the pair.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    nearest = makers[tensor]
    while nearest.op_type in ("DequantizeLinear", "QuantizeLinear", "Clip") and nearest.input[0] in makers:
        nearest = makers[nearest.input[0]]
    found: dict[str, onnx.NodeProto] = {}
    waiting, seen = [nearest], set()
    while waiting:
        node = waiting.pop()
        seen.add(node.name)
        if node.op_type in onnx_checks.COMPUTE:
            found[node.name] = node
        elif node.op_type != "DequantizeLinear":
            before = (makers[name] for name in node.input if name in makers)
            waiting += [each for each in before if each.name not in seen]
    return next(iter(found.values())) if len(found) == 1 else nearest


def _least(references: Sequence[Tensor], outputs: Sequence[NDArray], optimization: str, metric: Metric) -> Parity:
    """Return the least agreement and the least signal to noise ratio of several outputs (N, K)."""
    each = [
        onnx_checks.parity(reference.numpy(), output, optimization, metric)
        for reference, output in zip(references, outputs, strict=True)
    ]
    snr_db = min(chain.from_iterable([[p.snr_db] for p in each if p.snr_db is not None]), default=None)
    return Parity(each[0].n_images, min(p.agreement for p in each), snr_db, optimization)


def _snr_db(parity: Parity) -> float:
    return np.inf if parity.snr_db is None else parity.snr_db


def _refusal(parity: Parity, divergence: Divergence | None, table: ExportTable, metric: Metric) -> str:
    where = f"no tensor is below {table.min_snr_db:g} dB"
    if parity.agreement >= table.min_agreement and _snr_db(parity) >= table.min_snr_db:
        where = "its answers are clearly further from the float network's than the torch model's are"
    elif divergence is not None:
        where = (
            f"the first node that diverges is '{divergence.node}' ({divergence.origin}), {divergence.snr_db:.1f} dB "
            f"at '{divergence.tensor}'"
        )
    is_own = parity.optimization in targets.names()
    how = f"in {targets.parse(parity.optimization).title}" if is_own else f"graph optimisation: {parity.optimization}"
    return (
        f"the ONNX graph ({how}) does not agree with the torch model on "
        f"{parity.n_images} images: {metric.agreement} {100 * parity.agreement:.2f} % (needed "
        f"{100 * table.min_agreement:g} %, export.min_agreement), signal to noise {_snr_db(parity):.1f} dB "
        f"(needed {table.min_snr_db:g}); {where}; no artifact is written. quantize.exclude in the profile "
        "takes layers out"
    )
