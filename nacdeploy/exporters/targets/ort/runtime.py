"""What target ort can do: be timed here, on the grid and in the units that this CPU is measured to be fast with."""

from collections.abc import Mapping
from functools import partial

from nacdeploy.exporters.targets.ort import probe
from nacdeploy.exporters.targets.ort.runner import OnnxRunner, version
from nacdeploy.exporters.targets.runtime import Maker, Runtime
from nacdeploy.profile.tables.deployment import ExportTable


def _timed(table: ExportTable, threads: int) -> Maker:
    return partial(OnnxRunner, threads=threads)


def _multiples() -> Mapping[str, int]:
    return probe.channel_multiple().by_precision


RUNTIME = Runtime(version=version, timed=_timed, best_grid=probe.best_grid, multiples=_multiples)
