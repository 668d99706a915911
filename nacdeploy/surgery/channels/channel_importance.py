"""The importance of channels: one criterion per paper, with its scores summed over the layers that share the channels.

A criterion reads the float network: masked weights as zeros, neither quantizers nor exits, batch norms with the
statistics of the calibration images. So a score follows from weights and images alone, whatever the order of letters.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from nacdeploy.models.ports import ports_of
from nacdeploy.network.attachments.placement import AVERAGES, POOLS, RESHAPES, kind_of_node
from nacdeploy.network.captured.axes import channel_axis
from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.network.captured.graph import CONVOLVING, WEIGHTED, Captured, Interpreter, Weighted
from nacdeploy.network.network import Network
from nacdeploy.network.plain import masked_backbone
from nacdeploy.surgery.channels import next_layer
from nacdeploy.surgery.channels.channel_choice import NORM, PRODUCER, READER, Group, Member, ordered

BATCH_SIZE = 64
N_DIRECTIONS = 2  # in the space of the outputs, for each batch
_TINY = 1e-30
MAGNITUDE = "magnitude"  # of `channel_groups.groups` itself
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
RECTIFIERS = {"relu", "relu6", "hardtanh"}
Scores = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Measures = Iterable[tuple[Tensor, Callable[[Tensor], Tensor]]]
"""Images with what is to be differentiated in their outputs."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence for a criterion.

    Attributes:
        backbone: the float backbone.
        captured: its graph.
        images: normalised calibration images (N, C, H, W).
        labels: their labels (N, ...).
        loss: the loss of outputs and labels.
        seed: the seed of random draws.
    """

    backbone: nn.Module
    captured: Captured
    images: Tensor
    labels: Tensor
    loss: Loss
    seed: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels in parts of at least two images, which batch norms need."""
        n_parts = math.ceil(len(self.images) / BATCH_SIZE)
        yield from zip(self.images.tensor_split(n_parts), self.labels.tensor_split(n_parts), strict=True)


@dataclass(frozen=True)
class Criterion:
    """A way to score channels.

    Attributes:
        score: returns scores by root layer.
        is_comparable: whether scores of different groups can be compared without scaling.
        covers: tells whether the criterion can score a group of a network.
        why_not: why it cannot score the other groups.
    """

    score: Callable[[Sequence[Group], Evidence], Scores]
    is_comparable: bool
    covers: Callable[[Group, Network], bool] = lambda group, network: True
    why_not: str = ""


def evidence(network: Network, images: Tensor, labels: Tensor, loss: Loss, seed: int) -> Evidence:
    """Collect the evidence for criteria in `network`, on the device of the images."""
    backbone = masked_backbone(network).to(images.device).eval()
    for parameter in backbone.parameters():
        parameter.requires_grad_(True)
    return Evidence(with_batch_statistics(backbone), network.captured, images, labels, loss, seed)


def with_batch_statistics(backbone: nn.Module) -> nn.Module:
    """Return the same module with only its batch norms in training mode."""
    for module in backbone.modules():
        if isinstance(module, NORMS):
            module.train()
    return backbone


def covered(found: Sequence[Group], name: str, network: Network) -> list[Group]:
    """Return the groups that a criterion can rank."""
    return [group for group in found if name == MAGNITUDE or CRITERIA[name].covers(group, network)]


def why_not(found: Sequence[Group], name: str, network: Network) -> str:
    """Return why a criterion cannot rank some of the groups."""
    left_out = [group.root for group in found if group not in covered(found, name, network)]
    return f"prune.importance '{name}' cannot rank {', '.join(left_out[:3])}: {CRITERIA[name].why_not}"


def ranked(found: Sequence[Group], name: str, known: Evidence) -> tuple[Group, ...]:
    """Return the groups in the order of a criterion that covers them.

    Scores that depend on a layer's scale are divided by the group's maximum, so that groups can be compared.
    """
    scores = CRITERIA[name].score(found, known)
    return tuple(ordered(group, _scaled(scores[group.root].double().cpu(), CRITERIA[name])) for group in found)


def _scaled(scores: Tensor, criterion: Criterion) -> Tensor:
    return scores if criterion.is_comparable else scores / scores.amax().clamp(min=1e-300)


def per_channel(values: Tensor, member: Member, n_channels: int) -> Tensor:
    """Sum values by index over each channel's indices, (n_channels,)."""
    return values[torch.tensor(member.indices, device=values.device)].reshape(n_channels, -1).sum(1)


def filter_l1(weight: Tensor) -> Tensor:
    """Sum the magnitudes of each filter (O,) of a weight (O, ...) (Li et al., 2017)."""
    return weight.abs().flatten(1).sum(1)


def filter_l2(weight: Tensor) -> Tensor:
    """Return the L2 norm of each filter (O,) of a weight (O, ...)."""
    return weight.flatten(1).norm(dim=1)


def filter_distances(weight: Tensor) -> Tensor:
    """Sum each filter's distances to the others (O,): least near their geometric median (He et al., 2019, eq. 4)."""
    flat = weight.flatten(1)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def filter_taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """Sum (w g)^2 over each filter (O,): the squared loss change to first order (Molchanov et al., 2019, eq. 8)."""
    return (weight * gradient).square().flatten(1).sum(1)


def nonzero_share(x: Tensor) -> Tensor:
    """Return the share of positive values of each row of (C, n): one minus the APoZ of its ReLU (Hu et al., 2016,
    eq. 1)."""
    return (x > 0).double().mean(1)


def _mean_magnitude(x: Tensor) -> Tensor:
    """Return the mean magnitude of each row of (C, n); of a ReLU's output, the mean activation (Molchanov et al.,
    2017)."""
    return x.abs().double().mean(1)


def _of_weights(measure: Callable[[Tensor], Tensor]) -> Callable[[Sequence[Group], Evidence], Scores]:
    def score(found: Sequence[Group], known: Evidence) -> Scores:
        weights = {n: m.weight.detach().double() for n, m in _weighted(known.backbone).items()}
        return _summed(found, PRODUCER, {name: measure(w) for name, w in weights.items() if name in _names(found)})

    return score


def _of_activations(measure: Callable[[Tensor], Tensor]) -> Callable[[Sequence[Group], Evidence], Scores]:
    """Score channels by a measure of the tensors that their readers read, before pooling and flattening."""

    def score(found: Sequence[Group], known: Evidence) -> Scores:
        readers = {m.layer for g in found for m in g.members if m.role == READER}
        sources = {reader: _source(reader, known.captured.graph, known.backbone) for reader in readers}
        seen = _means(known, set(sources.values()), measure)
        return {group.root: _seen_by_readers(group, known, sources, seen) for group in found}

    return score


def _source(reader: str, graph: fx.Graph | None, backbone: nn.Module) -> str:
    """Return the node whose values a layer reads, before pooling, averaging and flattening."""
    node = next((n for n in (graph.nodes if graph else ()) if n.op == "call_module" and n.target == reader), None)
    while node is not None and node.all_input_nodes:
        node = node.all_input_nodes[0]
        if kind_of_node(node, backbone) not in POOLS | RESHAPES | AVERAGES:
            return str(node.name)
    return ""


def _means(known: Evidence, nodes: set[str], measure: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the mean measure (C,) over the images of the channels that each of some graph nodes writes."""
    taps = _Taps(known.backbone, known.captured, nodes, measure)
    with torch.no_grad():
        for images, _ in known.batches():
            taps.weight = len(images) / len(known.images)
            taps.run(images)
    return taps.seen


class _Taps(Interpreter):
    def __init__(
        self, backbone: nn.Module, captured: Captured, nodes: set[str], measure: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(backbone, captured)
        self.weight, self.seen = 1.0, dict[str, Tensor]()
        self._nodes, self._measure = nodes, measure

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self._nodes and isinstance(value, Tensor) and value.dim() > 1:
            rows = value.movedim(channel_axis(n, self.module, value.dim()), 0).flatten(1)
            self.seen[n.name] = self.seen.get(n.name, 0.0) + self.weight * self._measure(rows)
        return value


def _seen_by_readers(group: Group, known: Evidence, sources: Mapping[str, str], seen: Mapping[str, Tensor]) -> Tensor:
    """Sum the measures of a group's channels over the distinct tensors that the group's readers read."""
    parts = {}
    for member in (m for m in group.members if m.role == READER and sources[m.layer] in seen):
        values, layer = seen[sources[member.layer]], known.backbone.get_submodule(member.layer)
        n_inputs = layer.weight.shape[1]  # type: ignore[index]
        first = torch.tensor(member.indices, device=values.device).reshape(group.n_channels, -1)[:, 0]
        channels = first // (n_inputs // len(values))  # a flattened channel has a column for every pixel
        parts[sources[member.layer], tuple(channels.tolist())] = values[channels]
    return sum(parts.values(), torch.zeros(group.n_channels, dtype=torch.float64, device=known.images.device))


def _taylor(found: Sequence[Group], known: Evidence) -> Scores:
    layers = {name: layer for name, layer in _weighted(known.backbone).items() if name in _names(found)}
    totals: dict[str, Tensor] = {}
    for images, labels in known.batches():
        loss = known.loss(first_tensor(known.backbone(images)), labels)
        gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()], allow_unused=True)
        for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
            if gradient is not None:
                share = len(images) / len(known.images)
                part = share * filter_taylor(layer.weight.detach().double(), gradient.double())
                totals[name] = totals.get(name, 0.0) + part
    return _summed(found, PRODUCER, totals)


def _fisher(found: Sequence[Group], known: Evidence) -> Scores:
    """Score channels by the squared gradient of the loss by a gate on each, summed over images (Theis et al., 2018;
    Liu et al., 2021, eq. 5): a gate of zero is what the readers see once the channel is cut."""
    return _by_slopes(found, known, _losses(known))


def _losses(known: Evidence) -> Measures:
    """Yield images, and the sum of their losses as a function of the outputs."""
    for images, labels in known.batches():

        def summed(y: Tensor, labels: Tensor = labels) -> Tensor:
            return known.loss(y, labels) * len(y)

        yield images, summed


def _answers(found: Sequence[Group], known: Evidence) -> Scores:
    """Score channels by the squared gradients of all outputs by a gate on each, summed over images and outputs: what
    the answers lose, to second order (Gauss-Newton). No label is read.

    The sum over outputs is the mean over random directions (Hutchinson, 1990). Each output tensor counts by its own
    mean square, so that boxes and scores weigh alike.
    """
    return _by_slopes(found, known, _directions(known))


def _directions(known: Evidence) -> Measures:
    """Yield images, and their outputs along a random direction as a function of the outputs."""
    generator = torch.Generator().manual_seed(known.seed)

    def along(y: Tensor) -> Tensor:
        directions = torch.randn(y.shape, generator=generator).to(y)
        return torch.stack([each.sum() for each in _in_own_sizes(y, directions, known.backbone)]).sum()

    return ((images, along) for images, _ in known.batches() for _ in range(N_DIRECTIONS))


def _in_own_sizes(y: Tensor, directions: Tensor, backbone: nn.Module) -> list[Tensor]:
    """Return the outputs along directions (N, K), those of each output tensor over its root mean square."""
    ports = ports_of(backbone)
    pairs = zip(ports.apart(y), ports.apart(directions), strict=True) if ports else [(y, directions)]
    return [a * b / a.detach().square().mean().sqrt().clamp(min=_TINY) for a, b in pairs]


def _by_slopes(found: Sequence[Group], known: Evidence, every: Measures) -> Scores:
    """Sum squared slopes by gates over batches of images, each with what is to be differentiated in its outputs."""
    readers = {m.layer for g in found for m in g.members if m.role == READER}
    totals = {g.root: torch.zeros(g.n_channels, dtype=torch.float64, device=known.images.device) for g in found}
    for images, measure in every:
        slopes = _gate_slopes(known, readers, images, measure)
        for group in found:
            members = [m for m in group.members if m.role == READER and m.layer in slopes]
            for_each = [_by_image(slopes[m.layer], m, group.n_channels) for m in members]
            if for_each:
                totals[group.root] += torch.stack(for_each).sum(0).square().sum(0)
    return totals


def _gate_slopes(
    known: Evidence, readers: set[str], images: Tensor, measure: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the gradient (N, inputs) of a measure of the outputs by gates on the inputs of some layers, all open."""
    gates: dict[str, Tensor] = {}
    handles = [known.backbone.get_submodule(name).register_forward_pre_hook(_gated(gates, name)) for name in readers]
    try:
        slopes = torch.autograd.grad(
            measure(first_tensor(known.backbone(images))), list(gates.values()), allow_unused=True
        )
    finally:
        for handle in handles:
            handle.remove()
    return {name: slope.double() for name, slope in zip(gates, slopes, strict=True) if slope is not None}


def _gated(gates: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook that multiplies a layer's input by gates of one, one for each image and input channel."""

    def hook(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = given
        axis = 1 if isinstance(module, CONVOLVING) else x.dim() - 1
        if name not in gates:
            gates[name] = torch.ones(len(x), x.shape[axis], device=x.device, requires_grad=True)
        shape = [len(x), *[1] * (x.dim() - 1)]
        shape[axis] = x.shape[axis]
        return (x * gates[name].reshape(shape), *rest)

    return hook


def _by_image(slopes: Tensor, member: Member, n_channels: int) -> Tensor:
    """Sum slopes (N, inputs) over each channel's inputs, (N, n_channels)."""
    return slopes[:, torch.tensor(member.indices, device=slopes.device)].reshape(len(slopes), n_channels, -1).sum(2)


def _slim(found: Sequence[Group], known: Evidence) -> Scores:
    norms = {n: m for n, m in known.backbone.named_modules() if isinstance(m, NORMS) and m.affine}
    return _summed(found, NORM, {name: norm.weight.detach().abs().double() for name, norm in norms.items()})


def _random(found: Sequence[Group], known: Evidence) -> Scores:
    generator = torch.Generator().manual_seed(known.seed)
    return {g.root: torch.rand(g.n_channels, generator=generator, dtype=torch.float64) for g in found}


def _of_next_layer(measure: Callable[[Tensor], Tensor]) -> Callable[[Sequence[Group], Evidence], Scores]:
    """Score channels by a measure of the products of their contributions to the outputs of the layers that read
    them."""

    def score(found: Sequence[Group], known: Evidence) -> Scores:
        seen = next_layer.products(known.backbone, found, (images for images, _ in known.batches()))
        return {root: measure(products) for root, products in seen.items()}

    return score


def _summed(found: Sequence[Group], role: str, values: Mapping[str, Tensor]) -> Scores:
    """Sum values by index over the layers of one role in each group; groups without such layers are left out."""
    scores = {}
    for group in found:
        members = [m for m in group.members if m.role == role and m.layer in values]
        if members:
            scores[group.root] = sum(per_channel(values[m.layer], m, group.n_channels) for m in members)
    return scores  # type: ignore[return-value]


def _weighted(backbone: nn.Module) -> dict[str, Weighted]:
    return {name: m for name, m in backbone.named_modules() if isinstance(m, WEIGHTED)}


def _names(found: Sequence[Group]) -> set[str]:
    return {layer for group in found for layer in group.layers}


def _has_reader(group: Group, network: Network) -> bool:
    return any(member.role == READER for member in group.members)


def _has_own_readers(group: Group, network: Network) -> bool:
    readers = [member for member in group.members if member.role == READER]
    return bool(readers) and all(len(set(each.indices)) == len(each.indices) for each in readers)


def _has_norm(group: Group, network: Network) -> bool:
    layers = [network.backbone.get_submodule(m.layer) for m in group.members if m.role == NORM]
    return any(isinstance(layer, NORMS) and layer.affine for layer in layers)


def _is_seen(group: Group, network: Network) -> bool:
    return network.graph is not None and _has_reader(group, network)


def _is_rectified(group: Group, network: Network) -> bool:
    nodes = network.graph.nodes if network.graph else ()
    kinds = {kind_of_node(node, network.backbone) for node in nodes}
    return bool(kinds & RECTIFIERS) and _has_reader(group, network)


# The criteria by squared slopes of gates, which may stand on any tensor.
SLOPES: Mapping[str, Callable[[Evidence], Measures]] = {"fisher": _losses, "answers": _directions}
_READERS = (_has_reader, "no layer reads these channels")
_OWN_READERS = (_has_own_readers, "no layer reads these channels one by one")

CRITERIA = {
    "l1": Criterion(_of_weights(filter_l1), is_comparable=False),
    "l2": Criterion(_of_weights(filter_l2), is_comparable=False),
    "fpgm": Criterion(_of_weights(filter_distances), is_comparable=False),
    "slim": Criterion(_slim, True, _has_norm, "it ranks by the factors of batch norms, and there is none"),
    "random": Criterion(_random, is_comparable=True),
    "apoz": Criterion(
        _of_activations(nonzero_share), True, _is_rectified, "it counts zeros of ReLU, and the graph shows none"
    ),
    "mean-activation": Criterion(
        _of_activations(_mean_magnitude), False, _is_seen, "it looks at activations, and the graph shows none"
    ),
    "taylor": Criterion(_taylor, is_comparable=True),
    "fisher": Criterion(_fisher, True, *_READERS),
    "answers": Criterion(_answers, True, *_READERS),
    "greedy": Criterion(_of_next_layer(next_layer.greedy_scores), True, *_OWN_READERS),
    "lasso": Criterion(_of_next_layer(next_layer.lasso_scores), True, *_OWN_READERS),
}
