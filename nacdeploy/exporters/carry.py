"""Measured precision carried from one network to a similar one."""

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
    """The precisions carried to a network.

    Attributes:
        floats: the layers and products that stay float.
        n_by_name: the number decided by their name.
        n_by_kind: the number decided by their kind alone.
        n_unknown: the number not decided.
        measured: the place of the measurement.
    """

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
    """Read the measured precisions of an artifact, or of its precision.json.

    Raises:
        UsageError: `source` is neither, or the artifact's precision was not measured.
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
    """Apply measured precisions to a network.

    A layer of the same name and kind gets the same precision, any other layer the precision of most layers of its kind.
    A layer of a kind that was not measured keeps the precision that the chain asked for.

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
    """Return the precision of most layers of a kind, integers on a tie, or None for a kind without layers."""
    alike = [precisions.layers[name] for name, each in precisions.kinds.items() if each == kind]
    return max(sorted(set(alike), reverse=True), key=alike.count, default=None)
