"""The forms of a network with exits, timed in turns on one image: whole, in segments, as one file with branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray

from nacdeploy.base import latency
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Subject
from nacdeploy.cascades.cascade import Cascade
from nacdeploy.cascades.confidence import Rule
from nacdeploy.exporters.artifacts.cascade_files import Form
from nacdeploy.exporters.exits.running import SegmentRunner, forced
from nacdeploy.exporters.onnx_graph.cutting import Segmented
from nacdeploy.exporters.onnx_graph.nested_if import nested
from nacdeploy.exporters.targets.runtime import Maker
from nacdeploy.profile.tables.deployment import BenchTable


@dataclass(frozen=True)
class Times:
    """The times of one image: of the whole graph, and by form for each exit that it leaves at, the own end last."""

    whole_ms: float
    ways_ms: dict[Form, tuple[float, ...]]


def chained(parts: Segmented, make: Maker, rule: Rule, thresholds: Sequence[float]) -> Cascade:
    """Return the segments as a cascade in the runners of `make`."""
    wanted = [*((name, cut.tensor) for name, cut in zip(parts.exits, parts.cuts, strict=True)), parts.ends]
    runners = [
        SegmentRunner(make(model), names, is_first=at == 0)
        for at, (model, names) in enumerate(zip(parts.models, wanted, strict=True))
    ]
    return Cascade(runners, thresholds, rule)


def timed(
    graph: bytes,
    parts: Segmented,
    make: Maker,
    rule: tuple[str, Rule],
    image: NDArray[Any],
    table: BenchTable,
    n_rounds: int,
    forms: Sequence[Form],
) -> Times:
    """Time every way out of every form on one image (1, C, H, W), in turns with the whole graph.

    A form that cannot be made or run is left out; `rule` is the gate's, by name and as a function.
    """
    rows = forced(len(parts.exits))
    subjects: dict[str, Subject] = {"whole": make(graph).subject(image)}
    if "segments" in forms:
        chain = chained(parts, make, rule[1], rows[-1])
        subjects |= {f"segments {at}": Subject(partial(chain.run, image, row)) for at, row in enumerate(rows)}
    if "if" in forms:
        subjects |= _branches(parts, make, rule[0], image)
    found = latency.compare(
        subjects,
        baseline="whole",
        batch_size=1,
        threads=table.threads,
        n_rounds=n_rounds,
        round_ms=table.round_ms,
    ).turn_ms
    by_form: dict[Form, tuple[float, ...]] = {
        form: tuple(found[f"{form} {at}"] for at in range(len(rows))) for form in forms if f"{form} 0" in found
    }
    return Times(found["whole"], by_form)


def _branches(parts: Segmented, make: Maker, rule: str, image: NDArray[Any]) -> dict[str, Subject]:
    """Return the ways through the one file; none if it cannot be written."""
    try:
        files = [nested(parts, row, rule) for row in forced(len(parts.exits))]
    except NacdeployError:
        return {}
    return {f"if {at}": make(file).subject(image) for at, file in enumerate(files)}
