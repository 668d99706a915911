"""`whole.onnx`: an artifact in the place of the ONNX file that its network came from.

The graph of the artifact is the network that was read of the file. Where the file has more (parts that torch does not
hold, half precision, fixed inputs, sizes that are open), this one has all of it, and is compared with the file itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nacdeploy.base import latency
from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts.artifact import MODEL_FILE, Manifest
from nacdeploy.exporters.artifacts.onnx_checks import snr_db
from nacdeploy.exporters.onnx_graph.splicing import dressed, spliced
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.models.from_onnx.graph import reading
from nacdeploy.models.from_onnx.running import Part
from nacdeploy.profile.tables.deployment import BenchTable
from nacdeploy.task import Task
from nacdeploy.task.original import Call, Original

WHOLE = "whole.onnx"
_N_CALLS, _N_CARRIED = 16, 100
_LEAST_DB, _SLACK_DB = 5.0, 6.0
_MOST_DB = 150.0


@dataclass(frozen=True)
class Outcome:
    """The answers of two graphs to the same calls, output by output.

    Attributes:
        decibels: the signal to noise of each output of floats that has the same shape in both.
        equal: the share of calls at which each other output is the same.
    """

    decibels: Mapping[str, float]
    equal: Mapping[str, float]

    def __str__(self) -> str:
        floats = [f"'{name}' {min(db, _MOST_DB):.1f} dB" for name, db in self.decibels.items()]
        others = [f"'{name}' the same at {100 * share:.0f} %" for name, share in self.equal.items()]
        return ", ".join([*floats, *others])


def started(model: bytes, task: Task) -> bytes:
    """Return a graph with the names, texts and metadata of the file that its network came from, if it came from one."""
    if task.original is None:
        return model
    file = onnx.load(task.original.name.path, load_external_data=False)
    return dressed(onnx.load_model_from_string(model), file).SerializeToString()


def added(
    manifest: Manifest, files: Mapping[str, bytes], task: Task, table: BenchTable
) -> tuple[Manifest, dict[str, bytes]]:
    """Add the whole file, if the artifact's graph is not one already, and time it beside the original.

    Raises:
        NacdeployError: the whole file cannot be made.
    """
    original = task.original
    if original is None:
        return manifest, dict(files)
    network = onnx.load_model_from_string(files[MODEL_FILE])
    file = reading.as_written(original.name.path)
    if not _differs(original, network, file):
        return replace(manifest, kept=dict(original.parts.kept)), dict(files)
    made, notes = _made(network, file, original)
    found = compared(made.SerializeToString(), original)
    notes += _weak(found)
    carried, said = _carried(made, original)
    notes += said
    notes.append(_speed(made.SerializeToString(), original, table))
    place = f"{WHOLE} stands in the place of {original.name.path.name}"
    notes = [f"{place}: {found} of it over {_n(original)} calls", *notes]
    least = min((*found.decibels.values(), *carried, _MOST_DB))
    manifest = replace(manifest, whole_file=WHOLE, whole_db=least, kept=dict(original.parts.kept))
    manifest = replace(manifest, notes=(*manifest.notes, *notes))
    return manifest, {**files, WHOLE: made.SerializeToString()}


def _speed(model: bytes, original: Original, table: BenchTable) -> str:
    """Say how fast a whole file is beside the original, at one call after the other."""
    call = full(original, original.call(0))
    runners = {"file": OnnxRunner(original.name.path, threads=table.threads)}
    runners[WHOLE] = OnnxRunner(model, threads=table.threads)
    compared = latency.compare(
        {name: runner.subject(call) for name, runner in runners.items()},
        baseline="file",
        batch_size=1,
        threads=table.threads,
        n_rounds=table.n_rounds,
        round_ms=table.round_ms,
    )
    speed = compared.ratios[WHOLE]
    ms = " and ".join(f"{compared.latencies[name].p50_ms:.3f}" for name in ("file", WHOLE))
    return (
        f"{WHOLE} runs {speed.value:.2f}x ({speed.low:.2f}-{speed.high:.2f}) as fast as {original.name.path.name} in "
        f"ONNX Runtime ({ms} ms a call)"
    )


def _n(original: Original) -> int:
    return min(_N_CALLS, original.n_calls)


def _differs(original: Original, network: onnx.ModelProto, file: onnx.ModelProto) -> bool:
    """Tell whether a file has more than the network that was read of it."""
    if original.parts.is_cut or original.name.fixed:
        return True
    pairs = ((reading.inputs(file), network.graph.input), (file.graph.output, network.graph.output))
    for theirs, ours in pairs:
        facts = [[(each.name, each.type.tensor_type.elem_type) for each in side] for side in (theirs, ours)]
        if facts[0] != facts[1]:
            return True
    return original.batch is not None or bool(_open_axes(file, original))


def compared(model: bytes, original: Original, resize: Mapping[str, Sequence[int]] | None = None) -> Outcome:
    """Compare a graph with the file on calls that did not calibrate.

    Raises:
        NacdeployError: one of them does not run.
    """
    ours = Part(onnx.load_model_from_string(model), "the graph that was made", is_optimized=True)
    theirs = Part(original.name.path, str(original.name.path))
    pairs: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {name: [] for name in theirs.output_names}
    for i in range(_n(original) if resize is None else 2):
        call = full(original, original.call(i))
        call = call if resize is None else {name: _as_large(x, resize.get(name)) for name, x in call.items()}
        found = ours.run(call)
        for name, wanted in theirs.run(call).items():
            pairs[name].append((wanted, found[name]))
    floats = {name for name, each in pairs.items() if all(a.dtype.kind == "f" and a.shape == b.shape for a, b in each)}
    equal = {n: float(np.mean([np.array_equal(a, b) for a, b in pairs[n]])) for n in pairs if n not in floats}
    return Outcome({name: _decibels(each) for name, each in pairs.items() if name in floats}, equal)


def _carried(made: onnx.ModelProto, original: Original) -> tuple[list[float], list[str]]:
    """Return and say how near answers are when each call takes the state that the call before it gave.

    A state is an input of floats that is no sample, with an output of the same shape.
    """
    theirs = Part(original.name.path, str(original.name.path))
    first = full(original, original.call(0))
    answer = theirs.run(first)
    states = [name for name in original.states if name in first]
    shapes = {first[name].shape for name in states}
    same = [name for name, x in answer.items() if x.shape in shapes and x.dtype.kind == "f"]
    pairs = dict(zip(states, same, strict=False))
    if not states or len(same) != len(states) or any(first[a].shape != answer[b].shape for a, b in pairs.items()):
        return [], []
    found = _sequences([Part(made, WHOLE, is_optimized=True), theirs], original, pairs)
    others = [name for name in found if name not in pairs.values()] or list(found)
    decibels = {name: min(_decibels(found[name]), _MOST_DB) for name in others}
    each = ", ".join(f"'{name}' {db:.1f} dB" for name, db in decibels.items())
    n = len(found[others[0]])
    said = ", ".join(f"{a} from {b}" for a, b in pairs.items())
    return [*decibels.values()], [f"with its state ({said}) carried over {n} calls: {each}"]


def _sequences(
    parts: Sequence[Part], original: Original, states: Mapping[str, str]
) -> dict[str, list[tuple[NDArray[Any], NDArray[Any]]]]:
    """Return the answers of two graphs, each with its own state, call by call; the second is the file."""
    found: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    start = full(original, original.call(0))
    carried = [{name: np.zeros_like(start[name]) for name in states} for _ in parts]
    for i in range(min(_N_CARRIED, original.n_calls)):
        call = full(original, original.call(i))
        ours, theirs = (part.run({**call, **state}) for part, state in zip(parts, carried, strict=True))
        carried = [{name: answer[out] for name, out in states.items()} for answer in (ours, theirs)]
        for name, wanted in theirs.items():
            if wanted.dtype.kind == "f" and wanted.shape == ours[name].shape:
                found.setdefault(name, []).append((wanted, ours[name]))
    return found


def _decibels(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    wanted, found = (np.concatenate([each[k].reshape(-1) for each in pairs]).astype(np.float64) for k in (0, 1))
    return snr_db(wanted, found)


def full(original: Original, call: Call) -> dict[str, NDArray[Any]]:
    """Return a call with the inputs that are fixed."""
    return {**call, **original.name.fixed}


def _weak(found: Outcome) -> list[str]:
    """Say which outputs have little left of the file's."""
    weak = [f"'{name}' ({db:.1f} dB)" for name, db in found.decibels.items() if db < _LEAST_DB]
    return [f"LITTLE IS LEFT of the file's {', '.join(weak)}: see the chain's score"] if weak else []


def _open_axes(file: onnx.ModelProto, original: Original) -> dict[str, list[int]]:
    """Return the axes behind the batch that a file leaves open, by input."""
    batched = reading.samples(file)
    found = {}
    for value in reading.inputs(file):
        axes = value.type.tensor_type.shape.dim
        if value.name in batched and value.name not in original.name.fixed:
            found[value.name] = [i for i, axis in enumerate(axes) if i and axis.dim_value <= 0]
    return {name: axes for name, axes in found.items() if axes}


def _made(network: onnx.ModelProto, file: onnx.ModelProto, original: Original) -> tuple[onnx.ModelProto, list[str]]:
    """Return the whole file, and what is to be said of its sizes: open axes stay open as far as it answers right with
    other sizes; else the file's own graph answers these."""
    free, fixed, notes = _open_axes(file, original), original.name.fixed, list[str]()
    made = spliced(original.parts, network, file, fixed, {})
    sizes = {name: {axis: original.name.shapes[name][axis - 1] for axis in axes} for name, axes in free.items()}
    if free and not fixed and _is_free(made, original, free):
        return made, [f"{_shown(sizes)} stay open, as in the file: other sizes were tried"]
    if fixed:
        notes.append(f"made for {', '.join(f'{k} = {v}' for k, v in fixed.items())}: all else runs as in the file")
    if free:
        notes.append(f"made for {_shown(sizes)}: other sizes run as in the file")
    made = spliced(original.parts, network, file, fixed, sizes)
    if fixed or free:
        alone = "" if original.parts.is_cut else f"; {MODEL_FILE}, {_mib(network)}, has that alone"
        notes.append(f"{WHOLE}, {_mib(made)}, holds the file's own graph too{alone}")
    return made, notes


def _mib(model: onnx.ModelProto) -> str:
    return f"{model.ByteSize() / 2**20:.1f} MiB"


def _is_free(made: onnx.ModelProto, original: Original, free: Mapping[str, Sequence[int]]) -> bool:
    tried = [found for grow in (2.0, 1.5) if (found := _tried(made, original, free, grow)) is not None]
    return bool(tried) and all(tried)


def _shown(sizes: Mapping[str, Mapping[int, int]]) -> str:
    each = [f"axis {axis} of '{name}' ({size})" for name, axes in sizes.items() for axis, size in axes.items()]
    return ", ".join(each)


def _tried(made: onnx.ModelProto, original: Original, free: Mapping[str, Sequence[int]], grow: float) -> bool | None:
    """Tell whether a graph answers at other sizes as well as at its own; None if the file itself does not."""
    resize = {}
    for name, axes in free.items():
        size = [1, *original.name.shapes[name]]
        resize[name] = [round(n * grow) if axis in axes else n for axis, n in enumerate(size)]
    try:
        call = {n: _as_large(x, resize.get(n)) for n, x in full(original, original.call(0)).items()}
        Part(original.name.path, "the file").run(call)
    except NacdeployError:
        return None
    try:
        here, there = (compared(made.SerializeToString(), original, each) for each in ({}, resize))
    except NacdeployError:
        return False
    keeps = all(there.decibels.get(name, -_MOST_DB) >= db - _SLACK_DB for name, db in here.decibels.items())
    return keeps and all(there.equal.get(name, 0.0) >= share for name, share in here.equal.items())


def _as_large(x: NDArray[Any], shape: Sequence[int] | None) -> NDArray[Any]:
    """Return a call of another size, whose values are those of `x` again."""
    if shape is None:
        return x
    return np.pad(x, [(0, max(0, n - m)) for n, m in zip(shape, x.shape, strict=True)], mode="wrap")
