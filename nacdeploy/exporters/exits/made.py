"""The exits of an artifact in the form that saves time: cut, checked against the whole graph, calibrated, timed and
built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.progress import Say
from nacdeploy.cascades.cascade import Cascade
from nacdeploy.exporters import engines, parity
from nacdeploy.exporters.artifacts import onnx_checks
from nacdeploy.exporters.artifacts.artifact import MODEL_FILE, Lowering, Manifest
from nacdeploy.exporters.artifacts.cascade_files import CURVE, FOLDER, CascadeFiles, Form, Passed, SegmentFile
from nacdeploy.exporters.exits import forms
from nacdeploy.exporters.exits.curve import Answers, Curve, Setting, curve_of, retimed, within_drop
from nacdeploy.exporters.exits.forms import Times, chained
from nacdeploy.exporters.exits.moved import set_to
from nacdeploy.exporters.exits.running import rule_of
from nacdeploy.exporters.onnx_graph.cutting import NoCutError, Segmented, reading_integers, segmented
from nacdeploy.exporters.onnx_graph.lowering import OnnxGraph
from nacdeploy.exporters.onnx_graph.nested_if import nested
from nacdeploy.exporters.targets import Target
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import Built, Maker, Runner, Source, runtime_of
from nacdeploy.metrics import gate_of
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.operators.add_exits.settings import ExitTable
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

IF_FILE = "exits-if.onnx"
WHOLE_NOTE = "exits are extra outputs of one graph: the gate decides what is answered, no time saved in this form"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Order:
    """The order of a cut, and its judges: the graph and the fate of its layers, the network that simulates it, and the
    settings."""

    graph: OnnxGraph
    rows: Sequence[Lowering]
    network: Network
    task: Task
    profile: Profile
    target: Target
    log: Say

    @property
    def confidence(self) -> str:
        """The name of the gate's rule; "" is the metric's own."""
        asked = self.profile.export.gate
        return gate_of(self.task.metric) if asked == "auto" else asked

    @cached_property
    def make(self) -> Maker:
        """The runners that must agree: the target's own where it runs on every CPU, else ONNX Runtime."""
        return runtime_of(self.target).open or OnnxRunner

    @cached_property
    def timing(self) -> tuple[Maker, str]:
        """The runners that are timed, and the runtime that they stand for ("" if it is not the target)."""
        threads = self.profile.bench.threads
        maker = runtime_of(self.target).maker(self.profile.export, threads)
        return (partial(OnnxRunner, threads=threads), "") if maker is None else (maker, self.target.title)


def check(target: Target, wanted: str) -> None:
    """Refuse early a form that the target does not take.

    Raises:
        UsageError: it does not.
    """
    if wanted not in ("auto", "whole", *target.exit_forms):
        known = ", ".join(("auto", "whole", *target.exit_forms))
        raise UsageError(f"export.exits = '{wanted}' is not for target '{target.name}', which takes {known}")


def on_integers(graph: OnnxGraph, n_exits: int) -> OnnxGraph:
    """Return a graph whose exits read in 8 bits what goes on in 8 bits."""
    n_own = len(graph.outputs) - n_exits
    model = onnx.load_model_from_string(graph.model)
    moved = reading_integers(model, graph.outputs[n_own:], graph.outputs[:n_own])
    return replace(graph, model=moved.SerializeToString())


def added(manifest: Manifest, files: Mapping[str, bytes], order: Order) -> tuple[Manifest, Files]:
    """Return the manifest and files with the exits in the form of the profile, or in the one that is fastest.

    Raises:
        NoCutError: a form is asked for, and the graph cannot be cut.
        NacdeployError: a form is asked for, and the segments do not answer as the whole graph does, or cannot be built.
    """
    if manifest.gate is None:
        return manifest, dict(files)
    why, is_free = _why_whole(order), order.profile.export.exits == "auto"
    if why is not None and (is_free or not why):
        return _noted(manifest, "; ".join(filter(None, (WHOLE_NOTE, why)))), dict(files)
    if why is not None:
        raise UsageError(f"export.exits = '{order.profile.export.exits}': {why}; set it to 'whole'")
    try:
        parts = segmented(onnx.load_model_from_string(order.graph.model), *_names(order))
        return _formed(manifest, files, parts, order)
    except NacdeployError as error:
        if is_free:
            return _noted(manifest, f"{WHOLE_NOTE}; {error}"), dict(files)
        if isinstance(error, NoCutError):
            raise NoCutError(f"{error}: choose other exits.places, or set export.exits = 'whole'") from error
        raise


def _why_whole(order: Order) -> str | None:
    """Say why the graph stays whole, "" if that is asked for; None if it is to be cut."""
    wanted, ports = order.profile.export.exits, order.task.spec.ports
    if wanted == "whole" or (wanted == "auto" and not order.target.exit_forms):
        return ""
    if ports is not None and (ports.packs or ports.joins):
        return "a network of several inputs or outputs is not cut"
    if wanted == "auto" and not order.timing[1]:
        return f"{order.target.title} is not timed here; export.exits = 'segments' cuts the network all the same"
    return None


def _formed(manifest: Manifest, files: Mapping[str, bytes], parts: Segmented, order: Order) -> tuple[Manifest, Files]:
    """Return both with the best form of a graph that was cut."""
    wanted, rule = order.profile.export.exits, rule_of(order.confidence, order.task.metric)
    chain = chained(parts, order.make, rule, [2.0] * len(parts.exits))
    said = _checked(chain, order)
    asked: tuple[Form, ...] = order.target.exit_forms if wanted == "auto" else (wanted,)
    times = _times(parts, rule, order, asked)
    answers = _answers(chain, order)
    form, curve, setting = _chosen(answers, times, order)
    if wanted == "auto" and setting.expected_ms >= times.whole_ms:
        return _noted(manifest, f"{WHOLE_NOTE}; {_said_slower(times)}"), dict(files)
    more = {CURVE: records.json_bytes(curve)}
    segments, built = _built(parts, chain, order)
    if form == "if":
        more[IF_FILE] = nested(parts, setting.thresholds, order.confidence)
    made = CascadeFiles(
        form=form,
        segments=segments,
        if_file=IF_FILE if form == "if" else "",
        timed_in=order.timing[1] or "ONNX Runtime, in place of the target",
        ways_ms=times.ways_ms[form],
        whole_ms=times.whole_ms,
        curve_file=CURVE,
    )
    manifest = set_to(replace(manifest, cascade=made), setting, order.confidence)
    return _noted(manifest, said), {**files, **more, **built}


def _noted(manifest: Manifest, note: str) -> Manifest:
    return replace(manifest, notes=(*manifest.notes, note))


def _names(order: Order) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the outputs of the exits, and those of the network's own end."""
    n_exits = len(order.network.heads)
    outputs = order.graph.outputs
    return outputs[len(outputs) - n_exits :], outputs[: len(outputs) - n_exits]


def _checked(chain: Cascade, order: Order) -> str:
    """Say how the chain of segments agrees with the whole graph on the images of parity.

    Raises:
        NacdeployError: by less than the bounds of the profile.
    """
    table, metric = order.profile.export, order.task.metric
    images = order.task.data.validation.drawn(table.n_parity, 0)
    batches = [x.numpy() for x in evaluation.batches(order.task.data, images, 64)]
    runner = order.make(order.graph.model)
    whole = dict(zip(runner.output_names, parity.run_all(runner, batches), strict=True))
    exits, (end, *_) = _names(order)
    references = [whole[name] for name in (*exits, end)]
    outputs = [np.concatenate(each) for each in zip(*map(chain.every, batches), strict=True)]
    if all(np.array_equal(one, other) for one, other in zip(references, outputs, strict=True)):
        return "exits are cut off: segments answer bit for bit as the whole graph"
    found = [onnx_checks.parity(r, o, "segments", metric) for r, o in zip(references, outputs, strict=True)]
    n_changed = max(parity.n_surprising(r, o, metric) for r, o in zip(references, outputs, strict=True))
    least = min(each.snr_db for each in found if each.snr_db is not None)
    if parity.disagrees(n_changed, len(images), table.min_agreement) or least < table.min_snr_db:
        raise NacdeployError(
            f"the segments answer {n_changed} of {len(images)} images otherwise than the whole graph ({least:.1f} dB): "
            "set export.exits = 'whole'"
        )
    return f"exits are cut off: segments answer as the whole graph ({least:.1f} dB)"


def _answers(chain: Cascade, order: Order) -> Answers:
    """Return the answers of all exits to the validation images, as the segments give them."""
    images = order.task.data.validation
    parts = [chain.every(x.numpy()) for x in evaluation.batches(order.task.data, images, 64)]
    outputs = [np.concatenate(each) for each in zip(*parts, strict=True)]
    return Answers(outputs, images.labels, order.task.metric, chain.rule)


def _times(parts: Segmented, rule: Any, order: Order, asked: Sequence[Form]) -> Times:
    profile, image = order.profile, next(evaluation.batches(order.task.data, order.task.data.validation, 1)).numpy()
    n_rounds = profile.export.n_autotune_rounds
    maker = order.timing[0]
    return forms.timed(order.graph.model, parts, maker, (order.confidence, rule), image, profile.bench, n_rounds, asked)


def _chosen(answers: Answers, times: Times, order: Order) -> tuple[Form, Curve, Setting]:
    """Return the form of least expected time, with its curve, and with the profile's own threshold for all exits or
    the fastest thresholds within its largest drop.

    Raises:
        NacdeployError: the form that is asked for cannot be made.
    """
    if not times.ways_ms:
        raise NacdeployError(f"a gate by '{order.confidence or 'a rule of its own'}' goes with segments only")
    table, (first, *_) = order.profile.of(ExitTable), times.ways_ms
    curve = curve_of(answers, times.ways_ms[first], order.confidence)
    curves = {form: retimed(curve, ways_ms) for form, ways_ms in times.ways_ms.items()}

    def setting(form: Form) -> Setting:
        given = [2.0 if table.threshold is None else table.threshold] * len(answers.outputs[1:])
        found = within_drop(curves[form], table.max_drop) if table.threshold is None else None
        return found or answers.setting(given, times.ways_ms[form])

    settings = {form: setting(form) for form in times.ways_ms}
    best = min(settings, key=lambda form: settings[form].expected_ms)
    return best, curves[best], settings[best]


def _said_slower(times: Times) -> str:
    said = [f"in {form} {ways[0]:.3f} to {ways[-1]:.3f} ms" for form, ways in times.ways_ms.items()]
    return f"measured: whole {times.whole_ms:.3f} ms, an image {', '.join(said)}, which is no faster as images leave"


def _built(parts: Segmented, chain: Cascade, order: Order) -> tuple[tuple[SegmentFile, ...], Files]:
    """Return the records of the segments, and their files by name: graphs, and what the target builds of them."""
    files: Files = {}
    found = []
    wanted = [*((name, cut.tensor) for name, cut in zip(parts.exits, parts.cuts, strict=True)), parts.ends]
    carried: Any = next(evaluation.batches(order.task.data, order.task.data.validation, 64)).numpy()
    build = runtime_of(order.target).build
    for at, model in enumerate(parts.models):
        place = f"{FOLDER}/{at}"
        files[f"{place}/{MODEL_FILE}"] = model
        built = build(_source(model, carried, wanted[at], order, at)) if build else Built("", {})
        files |= {f"{place}/{name}": content for name, content in built.files.items()}
        passes = Passed(**vars(parts.cuts[at])) if at < len(parts.cuts) else None
        engine_files = {capability: f"{place}/{name}" for capability, name in built.engines.items()}
        found.append(SegmentFile(f"{place}/{MODEL_FILE}", wanted[at], passes, engine_files, built.builds))
        carried = chain.segments[at](carried)[-1]
    return tuple(found), files


def _source(model: bytes, given: NDArray[Any], outputs: Sequence[str], order: Order, at: int) -> Source:
    """Return the source of a segment's build; its builds are compared with the segment itself."""
    graph = onnx.load_model_from_string(model).graph
    nodes = {node.name for node in graph.node}
    rows = [row for row in order.rows if row.node in nodes]

    def agrees(what: str, runner: Runner) -> str:
        return _agreement(f"segment {at}: {what}", OnnxRunner(model), runner, given, outputs, order)

    source = engines.source(model, rows, order.network, order.task, order.profile, order.log)
    return replace(source, agrees=agrees, inputs={graph.input[0].name: tuple(given.shape[1:])})


def _agreement(
    what: str, reference: Runner, runner: Runner, given: NDArray[Any], outputs: Sequence[str], order: Order
) -> str:
    """Say how a build of a segment agrees with the segment.

    Raises:
        NacdeployError: by less than the bounds of the profile.
    """
    table, metric, found = order.profile.export, order.task.metric, {}
    for name, each in (("", reference), ("built", runner)):
        found[name] = dict(zip(each.output_names, each.run(given[: table.max_batch]), strict=True))
    one, other = (found[name][outputs[0]] for name in ("", "built"))
    compared = onnx_checks.parity(one, other.astype(np.float32), what, metric)
    n_changed = parity.n_surprising(one, other.astype(np.float32), metric)
    ratio = "exact" if compared.snr_db is None else f"{compared.snr_db:.1f} dB"
    is_weak = compared.snr_db is not None and compared.snr_db < table.min_snr_db
    if is_weak or parity.disagrees(n_changed, len(one), table.min_agreement):
        raise NacdeployError(f"{what} does not answer as the segment in ONNX ({ratio}): try export.float_type = 'fp32'")
    return f"{what} agrees with the segment in ONNX, {ratio}"
