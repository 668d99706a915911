"""Precision that was measured on one network, carried over to a similar one."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import PRECISION
from nacdeploy.exporters.tune import FLOAT, Precisions, member_kinds
from nacdeploy.network.network import Network


@dataclass(frozen=True)
class Carried:
    """The layers and products of a network that stay float, how many of all were decided by their name, by their kind
    alone and not at all, and where they were measured."""

    floats: tuple[str, ...]
    n_by_name: int
    n_by_kind: int
    n_unknown: int
    measured: str

    def __str__(self) -> str:
        unknown = f", {self.n_unknown} of kinds that were not measured as asked" if self.n_unknown else ""
        counted = f"{self.n_by_name} layers by name, {self.n_by_kind} by kind{unknown}"
        return f"precision {self.measured}: {counted}; in {FLOAT}: {', '.join(self.floats) or 'none'}"


def read(source: Path) -> Precisions:
    """The measured precisions of an artifact, or of the precision.json in one.

    Raises:
        UsageError: it is neither, or the artifact's precision was not measured.
    """
    if artifact.is_artifact(source):
        if not records.is_file(source / PRECISION):
            raise UsageError(f"the precision of {source} was not measured; export it with --autotune")
        source = source / PRECISION
    precisions = records.read(Precisions, source)
    if precisions.layers.keys() != precisions.kinds.keys():
        raise UsageError(f"{source} does not name the same layers in 'layers' and 'kinds'; export the artifact again")
    return precisions


def carried(precisions: Precisions, network: Network) -> Carried:
    """What measured precisions say of a network: a layer of the same name and kind has the same precision, another one
    that of most layers of its kind. What is of no kind that was measured stays as it is asked for.

    Raises:
        UsageError: no layer is of a kind that was measured.
    """
    kinds = member_kinds(network)
    by_name = {name: precisions.layers[name] for name, kind in kinds.items() if precisions.kinds.get(name) == kind}
    by_kind = {n: most for n, kind in kinds.items() if n not in by_name if (most := _most(precisions, kind))}
    if not by_name and not by_kind:
        measured, here = (", ".join(sorted(set(each.values()))) for each in (precisions.kinds, kinds))
        raise UsageError(
            f"the precision of {measured or 'no'} layers was measured, and this network has {here or 'none'}"
        )
    chosen = by_name | by_kind
    floats = tuple(name for name in kinds if chosen.get(name) == FLOAT)
    where = f"measured for {precisions.target} on {precisions.machine}"
    return Carried(floats, len(by_name), len(by_kind), len(kinds) - len(chosen), where)


def _most(precisions: Precisions, kind: str) -> str | None:
    """The precision of most layers of a kind, integers where as many are float; None where there are none."""
    alike = [precisions.layers[name] for name, each in precisions.kinds.items() if each == kind]
    return max(sorted(set(alike), reverse=True), key=alike.count, default=None)
