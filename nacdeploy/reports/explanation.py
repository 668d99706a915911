"""The explanation of an artifact: one row per layer, worst first, and the totals. Everything is read or measured."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nacdeploy.base.latency import Ratio
from nacdeploy.exporters.artifacts.artifact import Lowering
from nacdeploy.exporters.artifacts.onnx_layers import BETWEEN, OnnxLayer
from nacdeploy.exporters.targets.ort.layer_facts import LayerFacts
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.reports import reasons
from nacdeploy.reports.reasons import Alignment, Reason

Multiples = Mapping[str, int]


@dataclass(frozen=True)
class LayerReasons:
    """One layer: `asked` of the chain, `in_file` the precision that the ONNX file holds, `facts` what the runtime runs
    and how fast, `engine` the type in the TensorRT engines as far as that can be read ("" without any)."""

    layer: str
    kind: str
    asked: str
    in_file: str
    engine: str
    macs: int
    macs_fraction: float
    time_fraction: float
    zero_fraction: float | None
    is_two_four: bool
    alignment: Alignment
    facts: LayerFacts
    reason: Reason


@dataclass(frozen=True)
class DeployedSparsity:
    """Layers whose weights are 2:4, those that the runtime picked a sparse kernel for and those that gained by it
    (None: not known here), and why."""

    n_eligible: int
    n_picked: int | None
    n_gained: int | None
    note: str


@dataclass(frozen=True)
class Explanation:
    """Why an artifact is as fast as it is. The shares of time of the rows and of `between` add up to 1.

    `int8_macs_fraction` is the share of multiplications that INT8 kernels do, `int8_macs_in_file_fraction` that of the
    ones that the file holds in INT8. `speed` is the artifact's against its float twin (the same file, no Q/DQ; None
    where it has none), unprofiled. `top_reasons` are the causes that take most of the time without a gain, with their
    share of all time. `model_sha256` is that of the artifact's graph; "" in older files.
    """

    artifact: str
    chain: str
    target: str
    machine: str
    runtime: str
    threads: int
    rows: tuple[LayerReasons, ...]
    between: LayerFacts
    between_fraction: float
    call_ms: float
    twin_call_ms: float | None
    speed: Ratio | None
    profiler_overhead_ms: float
    int8_macs_fraction: float
    int8_macs_in_file_fraction: float
    sparsity: DeployedSparsity
    top_reasons: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]
    model_sha256: str = ""


def make_rows(
    layers: Sequence[OnnxLayer],
    lowering: Sequence[Lowering],
    facts: Mapping[str, LayerFacts],
    rule: Rule | None,
    multiples: Multiples,
    engine: Mapping[str, str],
) -> tuple[LayerReasons, ...]:
    """Return the rows, worst first: without a gain before with one, each by share of time.

    `multiples` of channels by the precision held, `engine` types by ONNX node.
    """
    asked = {row.layer: row for row in lowering}
    macs, time_ms = sum(layer.macs for layer in layers), sum(f.time_ms for f in facts.values())
    rows = [
        _row(layer, asked.get(layer.name), facts[layer.name], rule, multiples, engine, macs, time_ms)
        for layer in layers
    ]
    return tuple(sorted(rows, key=lambda row: (row.reason.is_gain, -row.time_fraction)))


def between_fraction(facts: Mapping[str, LayerFacts]) -> float:
    """Return the share of time of the nodes between layers."""
    return facts[BETWEEN].time_ms / max(sum(f.time_ms for f in facts.values()), 1e-12)


def top_reasons(rows: Sequence[LayerReasons], between_fraction: float, n: int = 3) -> tuple[tuple[str, float], ...]:
    """Return the causes that take most of the time without a gain, with their share of it all."""
    shares: dict[str, float] = defaultdict(float)
    for row in rows:
        if not row.reason.is_gain:
            shares[row.reason.cause] += row.time_fraction
    shares["between layers"] = between_fraction
    found = sorted(shares.items(), key=lambda item: -item[1])
    return tuple((cause, share) for cause, share in found[:n] if share > 0)


def sparsity(layers: Sequence[OnnxLayer], *, on_gpu: bool) -> DeployedSparsity:
    """Count the 2:4 layers, and report the known facts about their kernels."""
    n_eligible = sum(layer.is_two_four for layer in layers)
    if on_gpu:
        return DeployedSparsity(n_eligible, None, None, "picked and gained: not verifiable here, without a GPU")
    return DeployedSparsity(n_eligible, 0, 0, "ONNX Runtime's CPU provider has no sparse kernels")


def _row(
    layer: OnnxLayer,
    lowering: Lowering | None,
    facts: LayerFacts,
    rule: Rule | None,
    multiples: Multiples,
    engine: Mapping[str, str],
    macs: int,
    time_ms: float,
) -> LayerReasons:
    asked = lowering.asked if lowering else ""
    # A weight that torch's exporter renamed is "absent" to the lowering; the layer itself was found here.
    in_file, lowered = (
        (layer.held, "") if lowering is None or lowering.held == "absent" else (lowering.held, lowering.reason)
    )
    fit = reasons.alignment(
        layer.n_inputs,
        layer.n_outputs,
        multiples["int8" if in_file == "int8" else "float"],
        is_depthwise=layer.kind == "depthwise conv",
    )
    types = {engine[node] for node in layer.nodes if node in engine}
    return LayerReasons(
        layer=layer.name,
        kind=layer.kind,
        asked=asked,
        in_file=in_file,
        engine=" and ".join(sorted(types)),
        macs=layer.macs,
        macs_fraction=layer.macs / max(macs, 1),
        time_fraction=facts.time_ms / max(time_ms, 1e-12),
        zero_fraction=layer.zero_fraction,
        is_two_four=layer.is_two_four,
        alignment=fit,
        facts=facts,
        reason=reasons.why(facts, layer.kind, asked, in_file, lowered, rule, fit),
    )
