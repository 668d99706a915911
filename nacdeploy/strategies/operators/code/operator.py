"""C: share weights, so that storage holds codes of a few values: k-means, even levels, or fixed-point numbers.

After Q the values are integers of Q's grid: k-means on the integers if that is smaller, else the integers themselves.
The coded values are then the exported ones. Only F may follow: it trains the values, and no weight changes its label.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor, nn

from nacdeploy.base.errors import nearest
from nacdeploy.coding import sizes
from nacdeploy.coding.fixed_point import MAX_BITS, FixedPoint
from nacdeploy.network.attachments.weight_sharing import FIXED_POINT, INTEGERS, Codebook, OnGrid, n_integers, share
from nacdeploy.network.network import Network, layer_integers, masked_weight
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, unknown_layer, with_parameters
from nacdeploy.strategies.operators.code.settings import CodeTable, Init, Method, SharedAs
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

METHODS, INITS = (*get_args(Method), INTEGERS), ("", *get_args(Init))
RUN_WIDE = ("codes", "run_bits")  # of the container that is written in the end


@dataclass(frozen=True)
class CodeDecision:
    """The way to find each layer's values, why the other layers keep their own, and the mean bits of a weight."""

    books: dict[str, Codebook]
    unshared: dict[str, str]
    bits_per_weight: float


@dataclass(frozen=True)
class Code:
    letter: ClassVar[str] = "C"
    name: ClassVar[str] = "Code"
    version: ClassVar[int] = 1
    decision_type: ClassVar[type] = CodeDecision
    table: CodeTable

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        return cls(with_parameters(cls.letter, profile.of(CodeTable), parameters, RUN_WIDE))

    def refusal(self, state: CompressionState) -> str | None:
        layers = state.network.layers
        unknown = [name for name in self.table.layers if name not in layers]
        if unknown:
            return f"code.layers names '{unknown[0]}', which is no layer with weights{nearest(unknown[0], layers)}"
        if not self._chosen(state.network):
            return f"no layer is left to share: all {len(layers)} are excluded (code.exclude)"
        return None

    @classmethod
    def closed_to(cls, decision: CodeDecision, letter: str) -> str | None:
        if letter == "F":
            return None
        return "the weights are shared (C) and only F may follow, which trains the shared values; put C after it"

    def decide(self, state: CompressionState, task: Task) -> CodeDecision:
        found = {name: self._book(state.network, name) for name in self._chosen(state.network)}
        books = {name: book for name, (book, _) in found.items()}
        layers = state.network.layers
        n_weights = sum(_n_weights(layers[name]) for name in books)
        computed = state.network.captured.weights
        why = {name: "its weight is computed" if name in computed else "excluded" for name in layers}
        unshared = {name: reason for name, reason in why.items() if name not in books}
        return CodeDecision(books, unshared, sum(bits for _, bits in found.values()) / max(n_weights, 1))

    def perform(self, network: Network, decision: CodeDecision) -> Network:
        shared = copy.deepcopy(network)
        shared.share(decision.books)
        return shared

    def misfit(self, network: Network, decision: CodeDecision) -> str | None:
        """See `Fits`."""
        for name, book in decision.books.items():
            if book.method not in METHODS or book.init not in INITS or not 1 <= book.bits <= MAX_BITS:
                return f"the codebook of '{name[:80]}' is none: {book.method[:40]} of {book.bits} bits"
            if name in network.sharing.books:
                return f"it shares the weights of '{name[:80]}' twice"
            if (reason := unknown_layer([name], network)) is not None:
                return reason
            n_outputs, n_weights = len(network.layers[name].weight), _n_weights(network.layers[name])  # type: ignore[arg-type]
            low, high = book.limits or (0, 0)
            if not (0 < book.n_values <= max(n_weights, 1) and 0 <= book.n_scales <= n_outputs and low <= high):
                return f"the codebook of '{name[:80]}' has {book.n_values} values and {book.n_scales} scales"
        return None

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: CodeDecision) -> str:
        n_layers: dict[str, int] = {}
        for book in decision.books.values():
            kind = f"{book.method} of {book.bits} bits" if book.method != INTEGERS else "the integers of Q"
            n_layers[kind] = n_layers.get(kind, 0) + 1
        kinds = ", ".join(f"{kind} in {n} layers" for kind, n in n_layers.items())
        unshared = f"; not shared: {', '.join(decision.unshared)}" if decision.unshared else ""
        return f"{kinds}, {decision.bits_per_weight:.2f} bits a weight{unshared}"

    def _chosen(self, network: Network) -> list[str]:
        exclude = self.table.exclude
        return [
            name
            for name in network.layers
            if name not in network.captured.weights
            and not any(name == entry or name.startswith(f"{entry}.") for entry in exclude)
        ]

    def _book(self, network: Network, name: str) -> tuple[Codebook, int]:
        """Return the codebook of a layer, and the bits of its weight with that codebook."""
        layer = network.backbone.get_submodule(name)
        asked = self.table.shared_as(name)
        weight = masked_weight(network, name, layer).detach()
        on_grid = layer_integers(network, name, layer)
        is_masked = network.masks.get(name) is not None
        if on_grid is None:
            book = _float_book(weight, asked, self.table.fix_zeros or is_masked)
            return book, _bits(weight, book, None)
        limits = _limits(network, name)
        books = [_grid_book(weight, each, on_grid, limits) for each in _methods_on_grid(asked)]
        # the integers as they are where sharing them saves nothing
        return min(((book, _bits(weight, book, on_grid)) for book in books), key=lambda each: each[1])


def _n_weights(layer: nn.Module) -> int:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.numel()


def _methods_on_grid(asked: SharedAs) -> list[SharedAs]:
    integers = replace(asked, method=INTEGERS)
    return [integers] if asked.method == FIXED_POINT else [integers, asked]


def _limits(network: Network, name: str) -> tuple[int, int]:
    largest = network.grid.weight_maximum(network.plan.weight_bits[name])
    return -largest, largest


def _grid_book(weight: Tensor, asked: SharedAs, on_grid: OnGrid, limits: tuple[int, int]) -> Codebook:
    book = Codebook(asked.method, asked.bits, 1, asked.init, 0, True, limits, len(on_grid[1]))
    return replace(book, n_values=max(1, n_integers(weight, book, on_grid)))


def _float_book(weight: Tensor, asked: SharedAs, fix_zeros: bool) -> Codebook:
    if asked.method == FIXED_POINT:
        int_bits = _int_bits(weight) if asked.int_bits is None else asked.int_bits
        fixed = FixedPoint(asked.bits, int_bits)
        book = Codebook(FIXED_POINT, asked.bits, 1, "", int_bits, True, fixed.limits, 1)
        return replace(book, n_values=max(1, n_integers(weight, book)))
    n_values = min(2**asked.bits - int(fix_zeros), weight.numel())
    return Codebook(asked.method, asked.bits, max(1, n_values), asked.init, 0, fix_zeros)


def _int_bits(weight: Tensor) -> int:
    """Return the fewest integer bits that hold the largest magnitude, negative for small weights."""
    largest = float(weight.abs().max())
    return int(torch.tensor(largest).log2().ceil()) if largest > 0 else 0


def _bits(weight: Tensor, book: Codebook, on_grid: OnGrid | None) -> int:
    """Return the bits of a weight under a codebook, without the scales, which exist in any case."""
    labels = share(weight, book, on_grid).labels.numpy().ravel()
    found = sizes.histogram(labels, book.n_values + 1, 0)
    return sizes.size(found, sizes.best(found)).total_bits
