"""The meaning of "right" for every letter, measured against the original float network and not against our simulation.

Each check tries one thing on one network of `testing/foreign.py` and returns what it found; the trial may raise any
error. The limits are those of docs/coverage.md.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import MODEL_FILE
from nacdeploy.exporters.artifacts.onnx_checks import snr_db
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.export import export
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.network.network import Simulation, count_parameters
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.decompose import layer_settings
from nacdeploy.strategies.operators.decompose.operator import DecomposeDecision, Factored
from nacdeploy.strategies.operators.decompose.settings import DecomposeTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import letters
from nacdeploy.surgery.low_rank import decomposition, low_rank, ranks
from nacdeploy.testing import counted, zeroed
from nacdeploy.testing.foreign import Foreign, outputs

CAPTURED_DB, SURGERY_DB, FLOAT_EXPORT_DB, QUANTIZED_DB, QUANTIZED_SLACK_DB = 100.0, 60.0, 80.0, 20.0, 1.0
EXACT_DB = 999.0  # stands for equal bit for bit; its negative for an answer that is not finite
BATCHES, EXPORTED_BATCHES = (1, 2, 7), (1, 3)

Reference = Callable[[nn.Module], float]  # the dB of another quantiser on a float network, where that is asked for


@dataclass(frozen=True)
class Found:
    """The outcome of a check.

    Attributes:
        outcome: "right", "wrong" (the package said nothing) or "refused" (the package said so).
        reason: why the outcome is not right.
        figures: the measured figures.
    """

    outcome: Literal["right", "wrong", "refused"]
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def check_captured(foreign: Foreign) -> Found:
    """Check that the captured graph answers as the original does, in batches of 1, 2 and 7."""
    network = foreign.start.network
    if network.graph is None:
        return Found("refused", "not captured")
    found = []
    for n in BATCHES:
        images, answers = foreign.images(n), foreign.answers(n)
        with torch.no_grad():
            run = network.run(images, Simulation(network))
        found += [decibels(answers, run), decibels(answers, outputs(network, images))]
    worst = min(found)
    return _judged({"db": worst}, worst >= CAPTURED_DB, f"the captured graph is at {worst:.1f} dB")


def check_prune(foreign: Foreign) -> Found:
    """P by half, before settling, answers as the original with the removed channels set to zero."""
    state = foreign.after("P(ratio=0.5)")
    decision = state.steps[-1].decision
    cut = letters.make(Chain.parse("P(ratio=0.5)").links[0], foreign.profile).perform(foreign.start.network, decision)
    kept, found = zeroed.kept_by(decision.cut.slices), []
    for norms_of_kept in (True, False):
        with zeroed.zeroed(foreign.original, kept, norms_of_kept=norms_of_kept):
            found.append(decibels(foreign.answers(), outputs(cut.eval(), foreign.images())))
    figures = {
        "ratio": decision.taken / max(1, sum(decision.baseline_widths.values())),
        "parameters_ratio": 1 - count_parameters(cut.backbone) / count_parameters(foreign.original),
        "db": found[0],
        "db_norms_of_all": found[1],
    }
    if not decision.taken:
        return Found("wrong", "no channel was removed", figures)
    return _judged(figures, found[0] >= SURGERY_DB, f"the cut network is at {found[0]:.1f} dB")


def check_quantize(foreign: Foreign, reference: Reference | None = None) -> Found:
    """Q at 8 bits answers as the original, and the nodes of the exported file hold the integers that Q claims."""
    network = foreign.quantized.network
    db = decibels(foreign.answers(), outputs(network, foreign.images()))
    model = to_onnx(network, foreign.profile.export.opset).model
    claimed, in_file = len(network.plan.weight_bits), counted.integer_weights(model)
    ran = counted.integer_nodes_that_run(model, foreign.images(1).numpy())
    layers = counted.weighted(foreign.original)
    figures = {"db": db, "layers": layers, "claimed": claimed, "in_file": in_file, "ran": ran}
    found = _quantized_found(figures, foreign.original, reference)
    if found.outcome == "right" and claimed != in_file:
        return Found("wrong", f"{claimed} layers claimed in INT8, {in_file} in the file", found.figures)
    return found


def check_sparsify(foreign: Foreign) -> Found:
    """S (2:4): its zeros are in the weights that run and in the file; another order of channels changes no answer."""
    state = foreign.after("S")
    network = state.network
    masks = {name: network.masks.get(name) for name in network.masks.layers}
    run = counted.zeros_that_run(network, foreign.images(2), masks)
    filed = counted.zeros_in_file(to_onnx(network, foreign.profile.export.opset).model, masks)
    performed = letters.make(Chain.parse("S").links[0], foreign.profile).perform(
        foreign.start.network, state.steps[-1].decision
    )
    db = decibels(foreign.answers(), outputs(performed.backbone.eval(), foreign.images()))
    figures = {"claimed": len(masks), "ran": len(run), "in_file": len(filed), "db_unmasked": db}
    if missing := [name for name in masks if name not in run or name not in filed]:
        reason = f"zeros claimed in {len(masks)} layers, not seen in {len(missing)}: {missing[0]}"
        return Found("wrong", reason, figures)
    return _judged(figures, db >= SURGERY_DB, f"the order of channels changes the answer: {db:.1f} dB")


def check_decompose(foreign: Foreign) -> Found:
    """D at full rank answers as the original; D at half the ranks goes through."""
    foreign.after("D(ratio=0.5)")
    network = foreign.start.network
    layers = decomposition.layers(network, ())
    settings = layer_settings.of(foreign.profile.of(DecomposeTable), layers)
    with low_rank.structure_only():
        apart = {name for name, layer in layers.items() if low_rank.why_not(layer, settings[name].format) is None}
    called = decomposition.places(network, layers)
    chosen = {
        name: Factored(settings[name].format, ranks.modes(decomposition.shape_of(layer), settings[name].format), 0, 0)
        for name, layer in layers.items()
        if name in apart and name in called
    }
    link = Chain.parse("D").links[0]
    whole = letters.make(link, foreign.profile).perform(network, DecomposeDecision(chosen))
    db = decibels(foreign.answers(), outputs(whole.eval(), foreign.images()))
    return _judged({"db": db, "layers": len(chosen)}, db >= SURGERY_DB, f"at full rank {db:.1f} dB")


def check_exits(foreign: Foreign) -> Found:
    """E leaves the network's own end unchanged, bit for bit."""
    network = foreign.after("E(n_exits=2)").network
    with torch.no_grad():
        *_, own = network.forward_exits(foreign.images())
    worst = min(decibels(foreign.answers(), answer) for answer in (own, outputs(network, foreign.images())))
    figures = {"exits": len(network.exits), "db": worst}
    return _judged(figures, worst == EXACT_DB, f"the network's own end is at {worst:.1f} dB")


def check_chain(foreign: Foreign) -> Found:
    """QPF runs: trained for one epoch, with quantizers alive, to a finite answer."""
    state = foreign.after("QP(ratio=0.25)F", foreign.start)
    answer = outputs(state.network, foreign.images())
    return _judged({"epochs": state.n_epochs}, bool(torch.isfinite(answer).all()), "an answer is not finite")


def check_export(foreign: Foreign, reference: Reference | None = None) -> Found:
    """Check that the files of the FP32 network and of Q answer in ONNX Runtime as the original, in batches of 1 and
    3."""
    whole = _exported_db(foreign, foreign.start, "ort", foreign.original)
    figures = {"fp32_db": whole}
    if whole < FLOAT_EXPORT_DB:
        return Found("wrong", f"the FP32 file is at {whole:.1f} dB", figures)
    figures["db"] = _exported_db(foreign, foreign.quantized, "ort", foreign.original)
    return _quantized_found(figures, foreign.original, reference)


def check_engine(foreign: Foreign) -> Found:
    """TensorRT-RTX builds Q for SM89."""
    db, n_engines = _built(foreign, foreign.quantized, foreign.original)
    return _judged({"db": db, "engines": n_engines}, n_engines > 0, "no engine was built")


def check_prune_quantize(foreign: Foreign, reference: Reference | None = None) -> Found:
    """PQ, exported and built: Q against the pruned float network, in torch and in the file."""
    pruned = foreign.after("P(ratio=0.5)")
    both = foreign.after("Q", pruned)
    plain = pruned.network.backbone
    db = decibels(outputs(plain, foreign.images()), outputs(both.network, foreign.images()))
    file_db, n_engines = _built(foreign, both, plain)
    figures = {"simulated_db": db, "file_db": file_db, "engines": n_engines, "db": min(db, file_db)}
    if not n_engines:
        return Found("wrong", "no engine was built", figures)
    return _quantized_found(figures, plain, reference)


def decibels(exact: Tensor, other: Tensor) -> float:
    """Return the signal to noise ratio of answers (N, K), or `EXACT_DB` if they are equal."""
    if exact.shape != other.shape:
        return -EXACT_DB
    return float(np.clip(snr_db(exact.numpy(), other.detach().numpy()), -EXACT_DB, EXACT_DB))


def _judged(figures: dict[str, float], is_right: bool, reason: str) -> Found:
    return Found("right" if is_right else "wrong", "" if is_right else reason, figures)


def _quantized_found(figures: dict[str, float], plain: nn.Module, reference: Reference | None) -> Found:
    """Judge figures: 20 dB are right; below that, at most 1 dB less than a reference that is below 20 dB too."""
    db = figures["db"]
    if db >= QUANTIZED_DB or reference is None:
        return _judged(figures, db >= QUANTIZED_DB, f"Q is at {db:.1f} dB")
    other = reference(plain)
    is_right = other < QUANTIZED_DB and db >= other - QUANTIZED_SLACK_DB
    return _judged({**figures, "reference_db": other}, is_right, f"Q is at {db:.1f} dB, quantize_static at {other:.1f}")


def _exported_db(foreign: Foreign, state: CompressionState, target: str, plain: nn.Module) -> float:
    """Return the least dB, over batches, of an artifact's graph in ONNX Runtime against a float network."""
    with tempfile.TemporaryDirectory() as parent:
        folder = _artifact(foreign, state, target, Path(parent))
        return _file_db(foreign, folder, plain)


def _built(foreign: Foreign, state: CompressionState, plain: nn.Module) -> tuple[float, int]:
    """Return the same for TensorRT-RTX, and the number of its engines."""
    with tempfile.TemporaryDirectory() as parent:
        folder = _artifact(foreign, state, "trt-rtx", Path(parent))
        engines = artifact.load(folder)[0].engines.values()
        n_engines = sum((folder / file).stat().st_size > 0 for file in engines)
        return _file_db(foreign, folder, plain, is_optimized=False), n_engines


def _artifact(foreign: Foreign, state: CompressionState, target: str, parent: Path) -> Path:
    return export(state, foreign.task, foreign.profile, targets.parse(target), parent / "artifact", Context())


def _file_db(foreign: Foreign, folder: Path, plain: nn.Module, is_optimized: bool = True) -> float:
    runner = OnnxRunner(folder / MODEL_FILE, optimization="all" if is_optimized else "disabled")
    images, found = foreign.images(), []
    for n in EXPORTED_BATCHES:
        answers = [torch.from_numpy(runner.run(part.numpy())[0]) for part in images.split(n)]
        found.append(decibels(outputs(plain, images), torch.cat(answers)))
    return min(found)
