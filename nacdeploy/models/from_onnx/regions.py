"""The part of a graph that torch holds, and the parts before and behind it that stay ONNX.

A node that torch cannot hold (control flow, recurrent operators, other domains, outputs whose shapes depend on values)
is a barrier. Every barrier lies before the network or behind it; of all ways the one is taken whose network has the
most weights. Tensors that cross are samples `(N, ...)`: what makes others (shapes, sequences first) is computed on both
sides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import onnx
from onnx import NodeProto

from nacdeploy.base.errors import UsageError
from nacdeploy.models.from_onnx.graph.links import Links, Samples
from nacdeploy.models.from_onnx.trial import Zeros

_MOST_ROUNDS = 256


@dataclass(frozen=True)
class Parts:
    """A graph in parts.

    Attributes:
        whole: the graph.
        network: what torch holds.
        first: what stands before the network, from the file's inputs to inputs of the network; None if nothing does.
        before: the numbers of the nodes before the network.
        behind: the numbers of those behind it.
        kept: the nodes that torch does not hold, each with the reason.
        batch: the only batch of the graph; None for any.
        left: the names of nodes inside the network that stay in float.
    """

    whole: onnx.ModelProto
    network: onnx.ModelProto
    first: onnx.ModelProto | None = None
    before: frozenset[int] = frozenset()
    behind: frozenset[int] = frozenset()
    kept: Mapping[str, str] = field(default_factory=dict)
    left: frozenset[str] = frozenset()
    batch: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether a part of the graph stands outside of the network."""
        return bool(self.before or self.behind)


@dataclass
class _Cut:
    """A cut under way: numbers of nodes; those on two sides are computed twice."""

    before: set[int]
    inside: set[int]
    behind: set[int]


def cut(
    model: onnx.ModelProto,
    *,
    where: str,
    exclude: Sequence[str],
    refused: Mapping[str, str],
    samples: Iterable[str],
    trial: Zeros,
    batch: int | None = None,
) -> Parts:
    """Cut a graph where torch cannot hold it. `refused` are nodes that it does not, by the name of their first output,
    each with the reason; `samples` are the inputs that have the batch first,
    `batch` is the only one that the graph takes.

    Raises:
        UsageError: no weights are left in the network, or a pattern of `exclude` names no node.
    """
    links = Links(model, batch)
    excluded, left = _excluded(links, exclude, where), dict[int, str]()
    odd = {*links.given} - set(samples)
    barriers = {i: "" for i, names in enumerate(links.reads) if names & odd and i not in links.fixed}
    barriers |= {links.maker[name]: why for name, why in refused.items() if links.maker[name] not in links.fixed}
    if not barriers and not links.weight(range(len(links.nodes))):
        return Parts(model, model)  # nothing to cut for: who needs layers says that there are none
    for _ in range(_MOST_ROUNDS):
        found, lost = _best(links, {**barriers, **excluded})
        if excluded and lost:  # they stand between layers: they stay in the network, in float
            left, excluded = excluded, {}
            continue
        new = _settled(links, found, {*barriers, *excluded}, trial) if links.weight(found.inside) else None
        if new is None or (isinstance(new, Parts) and not links.weight(found.inside)):
            break
        if isinstance(new, Parts):
            kept = {**left, **excluded, **barriers}
            named = {_title(links.nodes[i], i): why for i, why in sorted(kept.items()) if why}
            return replace(new, kept=named, left=frozenset(links.nodes[i].name for i in left))
        barriers |= new
    named = {_title(links.nodes[i], i): why for i, why in sorted(barriers.items()) if why}
    raise UsageError(_nothing(where, [f"{node}: {why}" for node, why in named.items()]))


def _title(node: NodeProto, number: int) -> str:
    kind = f"{node.domain}:{node.op_type}".lstrip(":")
    return f"{node.name or f'number {number}'} ({kind})"


def _excluded(links: Links, patterns: Sequence[str], where: str) -> dict[int, str]:
    found = dict[int, str]()
    for pattern in patterns:
        hits = [i for i, node in enumerate(links.nodes) if fnmatchcase(node.name, pattern)]
        if not hits:
            some = ", ".join([node.name for node in links.nodes if node.name][-6:]) or "none has a name"
            raise UsageError(f"{where} has no node '{pattern}' to exclude; its last ones: {some}")
        found |= dict.fromkeys(hits, f"excluded by '{pattern}'")
    return {i: why for i, why in found.items() if i not in links.fixed}


def _best(links: Links, barriers: Mapping[int, str]) -> tuple[_Cut, int]:
    """Return the cut whose network has the most weights, and how many weights outside are no barrier's."""
    order, everything = sorted(barriers), set(range(len(links.nodes))) - links.fixed
    best, most = _Cut(set(), set(), everything), 0
    for n_before in range(len(order) + 1):
        before = links.reached(order[:n_before], links.parents)
        behind = links.reached(order[n_before:], links.children)
        inside = everything - behind - before
        weight = links.weight(inside)
        if not before & behind and weight > most:
            best, most = _Cut(before, inside, behind), weight
    return best, links.weight(everything - set(order)) - most


def _settled(links: Links, found: _Cut, barriers: set[int], trial: Zeros) -> Parts | dict[int, str]:
    """Return the parts of a cut whose tensors are samples, or nodes that turn out as further barriers."""
    _prune(links, found)
    while True:
        wanted = links.entering(found.inside)
        first, entering = _first(links, wanted, trial)
        strange = {name for name in wanted if name not in entering}
        copied = links.makers(strange)
        if not strange:
            break
        if len(copied) < len(strange) or copied & barriers:
            return {i: "" for i in found.inside if links.reads[i] & strange}
        found.inside |= copied
    inputs = {name: entering[name] for name in wanted}
    tensors, failing = trial.network(links.part(found.inside, inputs, links.leaving(found.inside, found.behind)))
    if failing:
        return {links.maker[name]: why for name, why in failing.items()}
    while strange := {name for name in links.leaving(found.inside, found.behind) if name not in tensors}:
        found.behind |= links.makers(strange)
        _prune(links, found)
    wanted = links.entering(found.inside)
    network = links.part(found.inside, {n: inputs[n] for n in wanted}, links.leaving(found.inside, found.behind))
    first, _ = _first(links, wanted, trial)
    return Parts(links.model, network, first, frozenset(found.before), frozenset(found.behind))


def _prune(links: Links, found: _Cut) -> None:
    """Leave out of the network what nobody reads."""
    leaving = links.makers(links.leaving(found.inside, found.behind))
    found.inside &= links.reached(leaving, links.parents)


def _first(links: Links, wanted: Sequence[str], trial: Zeros) -> tuple[onnx.ModelProto | None, Samples]:
    """Return the part that makes what a network reads and the file does not give, and which of it are samples."""
    made = [name for name in wanted if name not in links.given]
    if not made:
        return None, trial.before(None)
    part = links.part(links.reached(links.makers(made), links.parents), {}, made)
    return part, trial.before(part)


def _nothing(where: str, kept: Sequence[str]) -> str:
    named = ", ".join(kept[:4]) or "its inputs, which are no samples (N, ...)"
    hint = "; an input that decides an If can be fixed: --fix INPUT=VALUE" if any("(If):" in k for k in kept) else ""
    return (
        f"{where} has nothing that can be made faster: no convolution or matrix product with weights of its own lies "
        f"outside of what stays as it is ({named}){hint}"
    )
