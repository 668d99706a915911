"""The contributions of channels to the layer that reads them: greedy and lasso selection, and least squares after a
cut.

A convolution or linear layer is the sum of its input channels' contributions, z_c = x_c * w_c. Selection needs the
products G = (<z_a, z_b>) alone: without the channels of S the outputs differ by 1_S' G 1_S.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.network.captured.graph import Weighted
from nacdeploy.surgery.channels.channel_choice import READER, Group, Member

Layer = Weighted

N_ROWS = 8192
_CHANNELS_AT_ONCE = 64
_TINY = 1e-300


def n_positions(layer: Layer, x: Tensor) -> int:
    """Return the number of a layer's outputs, each of all channels, for images `x`; those of an image lie together."""
    return x[..., 0].numel() if isinstance(layer, nn.Linear) else len(x) * math.prod(_map_size(layer, x))


def positions(layer: Layer, x: Tensor, n_rows: int = N_ROWS) -> Tensor:
    """Return positions (P,) among all outputs of a convolution or linear layer that reads `x`: all, or `n_rows` drawn
    ones.

    The draw is the same every time for the same number of positions.
    """
    n = n_positions(layer, x)
    if n <= n_rows:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(n))[:n_rows].sort().values


def rows(layer: Layer, x: Tensor, drawn: Tensor) -> Tensor:
    """Return the inputs of a convolution's or linear layer's product at some positions (P,) of its output, (P, I *
    kernel); of a convolution with groups, those of all groups one after the other."""
    drawn = drawn.to(x.device)
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])[drawn]
    sizes = _map_size(layer, x)
    image, *places = torch.unravel_index(drawn, (len(x), *sizes))
    n = len(sizes)
    reads = [_along(_window(at, axis, layer), axis, n) for axis, at in enumerate(places)]
    windows = _padded(layer, x).movedim(1, -1)[image.reshape(-1, *[1] * n), *reads]  # (P, kernel, I)
    return windows.movedim(-1, 1).flatten(1)


def outputs(layer: Layer, y: Tensor, drawn: Tensor) -> Tensor:
    """Return the outputs (P, O) of a convolution, (N, O, ...), or of a linear layer, (..., O), at drawn positions."""
    last = y if isinstance(layer, nn.Linear) else y.movedim(1, -1)
    return last.reshape(-1, last.shape[-1])[drawn.to(y.device)]


def products(backbone: nn.Module, found: Sequence[Group], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the products (n, n) of the contributions of a group's channels to its readers' outputs, by root layer.

    Each reader counts by its share of its own outputs' square. Groups without readers are left out.
    """
    readers: dict[str, list[tuple[Group, Member]]] = {}
    for group in found:
        for member in group.members:
            if member.role == READER:
                readers.setdefault(member.layer, []).append((group, member))
    sums: dict[tuple[str, str], Tensor] = {}

    def add(name: str, layer: Layer, x: Tensor) -> None:
        seen = rows(layer, x, positions(layer, x, N_ROWS // 4)).double()
        for group, member in readers[name]:
            key = (group.root, name)
            sums[key] = sums.get(key, 0.0) + _contributions(seen, layer.weight.double(), member, group.n_channels)

    with torch.no_grad(), ExitStack() as stack:
        for name in readers:
            layer = backbone.get_submodule(name)
            handle = layer.register_forward_pre_hook(lambda m, args, name=name: add(name, m, args[0]))
            stack.callback(handle.remove)
        for images in batches:
            backbone(images)
    return _by_root(sums)


def greedy_scores(products: Tensor) -> Tensor:
    """Return the share of the outputs' square that is lost when each channel goes, (n,).

    The set of channels to go grows by the channel with which the set has the smallest outputs (ThiNet, Luo et al.,
    2017, eq. 6 and algorithm 1).
    """
    shares = products / products.sum().clamp(min=_TINY)
    scores, left = torch.zeros(len(shares), dtype=torch.float64), list(range(len(shares)))
    coupled, error, score = torch.zeros_like(shares[0]), 0.0, 0.0
    while left:  # error(S + c) = error(S) + G_cc + 2 sum of G_cs over S
        growth = shares.diagonal()[left] + 2 * coupled[left]
        place = int(growth.argmin())
        channel = left.pop(place)
        error += float(growth[place])
        score = max(math.nextafter(score, math.inf), error)  # contributions may cancel, the order must not
        scores[channel] = score
        coupled += shares[channel]
    return scores


def lasso_scores(products: Tensor) -> Tensor:
    """Return the largest penalty, (n,), at which each channel still has a coefficient in the lasso (He et al., 2017,
    eq. 2).

    The lasso explains the outputs by the channels' contributions; a penalty is relative to the largest of all. A
    channel whose coefficient is zero first goes first.
    """
    from sklearn.linear_model import lars_path_gram

    gram = products.cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of channels that are copies of others: they never enter
        penalties, _, coefficients = lars_path_gram(gram.sum(1), gram, n_samples=1, method="lasso")
    active = torch.from_numpy(coefficients != 0)  # (n, steps): a coefficient is nonzero below the penalty it enters at
    entered = torch.cat([active[:, 1:], active[:, -1:]], 1)
    scores = (entered * torch.from_numpy(penalties.copy())[None]).amax(1)
    return scores / scores.amax().clamp(min=_TINY)


def least_squares(x: Tensor, residual: Tensor, ridge: float, with_bias: bool) -> tuple[Tensor, Tensor | None]:
    """Return the change (F, O) of weights, and of a bias (O,), that best explains a residual (P, O) from rows (P, F).

    Of several such changes, the smallest: `ridge` is a penalty on the change, in units of the rows' mean square. With
    fewer rows than columns the equations are solved in the space of the rows. Products are summed in the type of the
    rows, the equations solved in double precision.
    """
    residual = residual.to(x.dtype)
    x_mean, residual_mean = (x.mean(0), residual.mean(0)) if with_bias else (x.new_zeros(()), x.new_zeros(()))
    centred, wanted = x - x_mean, residual - residual_mean
    if len(x) < x.shape[1]:
        change = centred.double().T @ _solve(centred @ centred.T, wanted, ridge)
    else:
        change = _solve(centred.T @ centred, centred.T @ wanted, ridge)
    return change, residual_mean.double() - x_mean.double() @ change if with_bias else None


def _solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    gram = gram.double()
    gram.diagonal().add_(ridge * gram.diagonal().mean() + _TINY)
    return torch.linalg.solve(gram, right.double())


def _by_root(sums: dict[tuple[str, str], Tensor]) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    for (root, _), each in sums.items():
        totals[root] = totals.get(root, 0.0) + each / each.sum().clamp(min=_TINY)
    return totals


def _contributions(seen: Tensor, weight: Tensor, member: Member, n_channels: int) -> Tensor:
    """Return the products (n, n) of the channels' contributions, from rows (P, F) and the reader's weight (O, I, ...).

    The products of columns are (X'X) o (W'W), summed over the columns of each pair of channels.
    """
    flat = weight.flatten(1)
    per_input = flat.shape[1] // weight.shape[1]
    inputs = torch.tensor(member.indices, device=seen.device)[:, None] * per_input
    columns = (inputs + torch.arange(per_input, device=seen.device)).flatten()
    x, w = seen[:, columns], flat[:, columns]
    per_channel = len(columns) // n_channels
    parts = []
    for first in range(0, n_channels, _CHANNELS_AT_ONCE):
        here = slice(first * per_channel, (first + _CHANNELS_AT_ONCE) * per_channel)
        pairs = (x[:, here].T @ x) * (w[:, here].T @ w)
        parts.append(pairs.reshape(-1, per_channel, n_channels, per_channel).sum((1, 3)))
    return torch.cat(parts)


def _window(start: Tensor, axis: int, layer: Any) -> Tensor:
    """Return the places (P, k) that a kernel reads along an axis, for output positions (P,)."""
    reach = torch.arange(layer.kernel_size[axis], device=start.device) * layer.dilation[axis]
    return start[:, None] * layer.stride[axis] + reach


def _along(places: Tensor, axis: int, n_axes: int) -> Tensor:
    """Return places (P, k) along one of some axes as an index (P, 1, ..., k, ..., 1) of all of them."""
    return places.reshape(len(places), *(places.shape[1] if axis == each else 1 for each in range(n_axes)))


def _padded(layer: Any, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(x, layer._reversed_padding_repeated_twice, mode)


def _map_size(layer: Any, x: Tensor) -> tuple[int, ...]:
    """Return the sizes in space of a convolution's output."""
    padding = layer._reversed_padding_repeated_twice  # of the last axis first
    padded = [n + sum(padding[2 * i : 2 * i + 2]) for i, n in enumerate(reversed(x.shape[2:]))][::-1]
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return tuple((n - r) // s + 1 for n, r, s in zip(padded, reach, layer.stride, strict=True))
