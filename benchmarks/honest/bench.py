"""One network of the table with one seed: its task, its settings, its cells, and its images as files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.honest.cells import Cells
from benchmarks.honest.plans import HERE, Plan
from benchmarks.peers import timing
from benchmarks.peers.timing import Images
from nacdeploy import models
from nacdeploy import profile as profiles
from nacdeploy.base.progress import Progress
from nacdeploy.data import ImageSet
from nacdeploy.profile import Profile
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.session import timed
from nacdeploy.sessions.setup import settled, wanted
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibration_images
from nacdeploy.task import Task

_OPENED: dict[tuple[str, str, int, bool], "Bench"] = {}


@dataclass(frozen=True)
class Bench:
    """A network and seed.

    Attributes:
        plan: what is asked.
        task: the network and its data; the clock's table lies beside the cells.
        profile: the settings in force, the seed among them.
        folder: of the network; the cells of the seed lie below it.
        cells: those of the seed.
    """

    plan: Plan
    seed: int
    task: Task
    profile: Profile
    folder: Path
    cells: Cells
    progress: Progress

    def first_seed(self) -> "Bench":
        """The bench of the plan's first seed, which chooses learning rates for all."""
        seed = min(min(seeds) for seeds in self.plan.speedups.values())
        root, make = self.folder.parent, self.cells.make
        return self if seed == self.seed else opened(self.plan, seed, root, self.progress, make)

    @property
    def n_epochs(self) -> int:
        """The epochs of the recipe: of the baseline's first round, and of every chain."""
        return self.profile.train.epochs

    def images(self, name: str) -> Images:
        """A split as every network is given it, written once: "validation", "test", or "calibration"."""
        return _written(self.folder / f"{name}.npy", self.task, self._set(name))

    def _set(self, name: str) -> ImageSet:
        if name == "calibration":
            return calibration_images(self.task.data, self.profile.of(QuantizeTable).n_calibration)
        return {"validation": self.task.data.validation, "test": self.task.data.test}[name]

    def dense(self, model: str, width: float, tables: Mapping[str, Any]) -> tuple[Task, Profile]:
        """The task and settings of a dense network of another architecture on the same data."""
        profile = profiles.override(self.profile, {"model": model, "width": width, **tables})
        spec = replace(self.task.spec, name=model, width=width, source_sha256=None)
        return replace(self.task, spec=spec), profile


def opened(plan: Plan, seed: int, root: Path, progress: Progress, make: bool) -> Bench:
    """The bench of a plan's network, one for each seed in a process; the baseline is no part of it yet."""
    key = (str(root), plan.name, seed, make)
    if key not in _OPENED:
        _OPENED[key] = _opened(plan, seed, root, progress, make)
    return _OPENED[key]


def _opened(plan: Plan, seed: int, root: Path, progress: Progress, make: bool) -> Bench:
    folder = root / plan.name
    models.name_by_user(plan.model)
    options = Options(profile=str(HERE / f"{plan.name}.toml"), model=plan.model, seed=seed, runs=folder / "runs")
    request = wanted(options, "PQF")
    request = replace(request, settings=request.settings.over(("the plan", dict(plan.tables))))
    setup = settled(request, progress)
    task = timed(setup.task, setup.profile, folder / "latencies")
    place = folder / f"seed-{seed}"
    bench: Bench
    cells = Cells(place, lambda: bench.images("validation"), progress, make)
    bench = Bench(plan, seed, task, setup.profile, folder, cells, progress)
    return bench


def _written(path: Path, task: Task, images: ImageSet) -> Images:
    """The images as a file, which is whole if the first image alone, written last, lies beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = Images(path.absolute(), images.labels.numpy())
    return found if found.first.is_file() else timing.written(path, task.data, images)
