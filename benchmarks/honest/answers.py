"""What is measured at the end: the times of all cells of a seed in one interleaved run, and answers on the test split,
each network's once. Rows are read off between networks at exactly the time that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.honest.bench import Bench
from benchmarks.honest.cells import ENVIRONMENTS, Cell
from benchmarks.honest.methods import Variation
from benchmarks.honest.shapes import share
from benchmarks.peers import timing
from nacdeploy.base import records
from nacdeploy.base.latency import Ratio

SLACK = 1.03  # a network that is so much slower than asked counts as within the time: two runs differ by as much
TIMES, ANSWERS = "times.json", "answers"
N_ROUNDS = 60


@dataclass(frozen=True)
class Times:
    """The speed of each cell against the baseline, and the ms of its call (the fastest of a turn, the middle of the
    rounds), from one run; `machine` says where."""

    machine: str
    baseline_ms: float
    ratios: dict[str, Ratio]
    call_ms: dict[str, float]


@dataclass(frozen=True)
class Found:
    """What a method reaches at a speed.

    Attributes:
        name: the variation that validation picks.
        validation: its accuracy there, a fraction.
        right: of each test image how right it is, in [0, 1], between two networks a mean; `(N,)`.
        ratio: the speed of the network within the time, and its interval.
        call_ms: the time of its call.
        n_epochs: that it was trained in all.
    """

    name: str
    validation: float
    right: NDArray[Any]
    ratio: Ratio
    call_ms: float
    n_epochs: int

    @property
    def test(self) -> float:
        """The accuracy on test, a fraction."""
        return float(self.right.mean())


def times(bench: Bench, baseline: Cell, cells: Sequence[Cell], fresh: bool) -> Times:
    """The times of a seed's cells; measured anew if one is new, or if asked to."""
    file, wanted = bench.cells.root / TIMES, {cell.key: cell for cell in cells if not cell.error}
    kept = records.read(Times, file) if file.is_file() else None
    if kept is not None and not fresh and wanted.keys() <= kept.ratios.keys():
        return kept
    subjects = [each.subject(bench.cells.root) for each in {baseline.key: baseline, **wanted}.values()]
    bench.progress.say(f"timing {len(subjects)} networks of {bench.plan.name}, seed {bench.seed}, in turns")
    with timing.loaded(subjects, ENVIRONMENTS, bench.images("test").first) as workers:
        compared = timing.compare(workers, baseline.key, n_rounds=N_ROUNDS, fastest=True)
    found = Times(compared.machine, compared.turn_ms[baseline.key], compared.ratios, compared.turn_ms)
    records.write_json(file, found)
    return found


def right(bench: Bench, cell: Cell) -> NDArray[Any]:
    """Whether each test image is answered rightly, `(N,)`; a network is asked once."""
    kept = bench.cells.root / ANSWERS / f"{bench.cells.folder(cell.key).name}.npy"
    images = bench.images("test")
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        subject = cell.subject(bench.cells.root)
        with timing.loaded([subject], ENVIRONMENTS, images.first) as workers:
            timing.accuracy(workers[cell.key], cell.key, images)
        answers = np.load(images.path.with_suffix(".answers.npy")).argmax(1)
        records.write_bytes(kept, [_npy(answers)])
    return np.load(kept) == images.labels


def picked(variations: Sequence[Variation], speedup: float, measured: Times) -> tuple[Variation, float] | None:
    """The variation that validation likes best at a speed, and how near it lies to its first network."""
    scores = {}
    for number, variation in enumerate(variations):
        near = nearness(variation, speedup, measured)
        if near is not None:
            first, last = variation.cells[0], variation.cells[-1]
            scores[number] = (near * first.validation + (1 - near) * last.validation, near)
    if not scores:
        return None
    number = max(scores, key=lambda each: scores[each][0])
    return variations[number], scores[number][1]


def nearness(variation: Variation, speedup: float, measured: Times) -> float | None:
    """How near a speed lies to the variation's first network (1) or to its last (0); None if both are slower, or one
    could not be made."""
    if any(cell.error or cell.key not in measured.ratios for cell in variation.cells):
        return None
    within, beyond = (measured.ratios[cell.key].value for cell in (variation.cells[0], variation.cells[-1]))
    if max(within, beyond) * SLACK < speedup:
        return None
    if beyond >= speedup > 0 and len(variation.cells) > 1:  # timed at the end, the slower one is fast enough too
        return 0.0
    return 1.0 if within <= speedup else share(speedup, within, beyond)


def found(bench: Bench, variations: Sequence[Variation], speedup: float, measured: Times) -> Found | None:
    """What a method reaches at a speed; None if none of its networks is that fast."""
    choice = picked(variations, speedup, measured)
    if choice is None:
        return None
    variation, near = choice
    first, last = variation.cells[0], variation.cells[-1]
    of_each = near * right(bench, first) + (1 - near) * right(bench, last) if near < 1 else 1.0 * right(bench, first)
    validation = near * first.validation + (1 - near) * last.validation
    shown = first if near > 0 else last
    n_epochs, key = max(first.n_epochs, last.n_epochs), shown.key
    return Found(variation.name, validation, of_each, measured.ratios[key], measured.call_ms[key], n_epochs)


def gap(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float, float]:
    """How many points the first is above the second on the same images, with its 95 % interval (paired, normal)."""
    each = 100 * (ours - theirs)
    half = 1.96 * float(each.std(ddof=1)) / len(each) ** 0.5
    middle = float(each.mean())
    return middle, middle - half, middle + half


def _npy(values: NDArray[Any]) -> bytes:
    out = BytesIO()
    np.save(out, values.astype(np.int16))
    return out.getvalue()
