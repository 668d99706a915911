"""Explaining an artifact: read its file, run it and its float twin here, and give the reason for each layer's speed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nacdeploy.base import latency, records
from nacdeploy.base.outside import doors, onnx_files
from nacdeploy.base.progress import Progress, default
from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts import artifact, onnx_layers
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest
from nacdeploy.exporters.artifacts.float_twin import float_twin, is_quantized
from nacdeploy.exporters.artifacts.onnx_layers import OnnxLayer
from nacdeploy.exporters.targets import Target, ported
from nacdeploy.exporters.targets.ort import layer_facts
from nacdeploy.exporters.targets.ort import probe as probes
from nacdeploy.exporters.targets.ort import profiling as onnx_profile
from nacdeploy.exporters.targets.ort.runner import Given
from nacdeploy.exporters.targets.runtime import runtime_of
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.reports import explanation
from nacdeploy.reports.explanation import Explanation
from nacdeploy.strategies.operators import OPERATORS
from nacdeploy.strategies.operators.base import D
from nacdeploy.strategies.operators.prune.operator import PruneDecision
from nacdeploy.strategies.operators.quantize.operator import QuantizeDecision
from nacdeploy.strategies.steps.checkpoint import step_from_data
from nacdeploy.strategies.steps.letters import kind as operator_of


@dataclass(frozen=True)
class Opened:
    """An artifact before any of it runs: its records, the bytes of its graph, and the graph."""

    manifest: Manifest
    lowering: tuple[Lowering, ...]
    content: bytes
    file: onnx.ModelProto

    @property
    def is_quantized(self) -> bool:
        """Tell whether the artifact has a float twin that differs from it."""
        return is_quantized(self.file)

    def layers(self, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[OnnxLayer, ...]:
        """Return the layers; `shapes` are the shapes of the first input and output by node."""
        return onnx_layers.onnx_layers(self.file, self.lowering, shapes)


def opened(path: Path) -> Opened:
    """Read the artifact at a path and check its files.

    Raises:
        UsageError: `path` is no artifact, or its graph is none.
        NacdeployError: a file of it is damaged.
    """
    manifest, lowering = artifact.load(path)
    content = doors.read_bytes(path / manifest.model_file)
    _rule(manifest)
    _rounding(manifest)
    return Opened(manifest, lowering, content, onnx_files.read(content, str(path / manifest.model_file)))


def explain(path: Path | str, *, threads: int = 1, rounds: int = 10, progress: Progress | None = None) -> Explanation:
    """Compare an artifact with its float twin layer by layer, and say why each layer is faster or not, worst first.

        >>> import nacdeploy
        >>> explanation = nacdeploy.explain("runs/export-ort-1", rounds=3)
        >>> any(row.layer == "stem.0" for row in explanation.rows)
        True

    Raises:
        UsageError: `path` is no artifact, or the package of its target is not installed.
        NacdeployError: a file of the artifact is damaged, or ONNX Runtime cannot run it.
    """
    progress, path = progress or default(), Path(path)
    found = opened(path)
    manifest, lowering, content, file = found.manifest, found.lowering, found.content, found.file
    target = targets.parse(manifest.target)
    images = _images(manifest)
    models = {"own": content}
    if found.is_quantized:
        models["twin"] = float_twin(file).SerializeToString()
    progress.say(f"profiling {path}{' and its float twin, in turns' if len(models) > 1 else ''}")
    profiles = onnx_profile.profile(models, images, baseline=[*models][-1], threads=threads, n_rounds=rounds)
    shapes = {node: (s.input, s.output) for node, s in onnx_profile.node_shapes(content, images).items()}
    layers = found.layers(shapes)
    own, twin = profiles.by_name["own"], profiles.by_name.get("twin")
    facts = layer_facts.from_onnx_runtime(file, layers, own, twin)
    rows = explanation.make_rows(
        layers,
        lowering,
        facts,
        _rule(manifest),
        {"int8": target.unit_int8, "float": target.unit_float} if target.on_gpu else _measured(progress),
        runtime_of(target).computed(path, manifest),
    )
    between = explanation.between_fraction(facts)
    return Explanation(
        artifact=str(path),
        chain=manifest.chain,
        target=manifest.target,
        machine=latency.machine(),
        runtime="ONNX Runtime, CPUExecutionProvider, all graph optimisations",
        threads=threads,
        rows=rows,
        between=facts[onnx_layers.BETWEEN],
        between_fraction=between,
        call_ms=own.call_ms,
        twin_call_ms=twin.call_ms if twin else None,
        speed=profiles.speed["own"] if twin else None,
        profiler_overhead_ms=own.overhead_ms,
        int8_macs_fraction=sum(row.macs_fraction for row in rows if row.facts.held == "int8"),
        int8_macs_in_file_fraction=sum(row.macs_fraction for row in rows if row.in_file == "int8"),
        sparsity=explanation.sparsity(layers, on_gpu=target.on_gpu),
        top_reasons=explanation.top_reasons(rows, between),
        notes=(*_notes(target, file), *_rounding(manifest)),
        model_sha256=manifest.files[manifest.model_file],
    )


def _images(manifest: Manifest) -> Given:
    """Return one image of random pixels, normalised as the artifact's own are: (1, C, H, W), or random inputs by
    name."""
    given, ports = manifest.preprocessing, manifest.ports
    if given is None or ports is not None:
        return ported.given(ports, ported.noise(ports)) if ports else {}
    shape = tuple(int(size) for size in manifest.inputs[0].shape[1:])
    pixels = np.random.default_rng(0).integers(0, 256, shape) * given.scale
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (given.mean, given.std))
    normalised: NDArray[Any] = ((pixels - mean) / std)[None].astype(np.float32)
    return normalised


def _decisions(manifest: Manifest, kind: type[D]) -> list[D]:
    """Return the decisions of one kind along the chain that made the artifact.

    Raises:
        UsageError: a step is none.
    """
    letters = {each.letter for each in OPERATORS if operator_of(each.letter).decision_type is kind}
    made = [step for step in manifest.steps if step.link[:1] in letters]
    return [step_from_data(records.to_data(step)).decision for step in made]


def _rule(manifest: Manifest) -> Rule | None:
    """Return the rule of the chain's last Q."""
    found = _decisions(manifest, QuantizeDecision)
    return found[-1].rule if found else None


def _rounding(manifest: Manifest) -> list[str]:
    """Say what each P of the chain took, and what rounding to whole units left."""
    cuts = _decisions(manifest, PruneDecision)
    return [f"P took {cut.taken} of {cut.asked:g} channels asked, {cut.carried:g} carried" for cut in cuts]


def _measured(progress: Progress) -> Mapping[str, int]:
    progress.say("measuring which multiple of channels pays on this CPU")
    found = probes.channel_multiple()
    return {"int8": found.int8, "float": found.float32}


def _notes(target: Target, file: onnx.ModelProto) -> tuple[str, ...]:
    notes = [target.note_on_times] if target.note_on_times else []
    n_norms = sum(node.op_type == "BatchNormalization" for node in file.graph.node)
    if n_norms:
        notes.append(f"{n_norms} batch norms stand in the file unfolded")
    return tuple(notes)
