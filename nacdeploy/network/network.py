"""Network: a plain network with its attachments, run through the captured graph.

Attaching something never changes the plain network: fake quantization, masks and exits are submodules beside it, found
by the names of the graph's nodes and of layers. A `Semantics` defines the values at a quantized edge or a layer: the
simulation here, the observation of ranges in settle, real integers in the exporter.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn

from nacdeploy.base.errors import NacdeployError, RefusedError
from nacdeploy.base.precision import Grid
from nacdeploy.base.progress import nobody
from nacdeploy.network.attachments import placement, sparsity, weight_quantizers
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.early_exit import ExitHead
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer, Rule
from nacdeploy.network.attachments.placement import Plan
from nacdeploy.network.attachments.sparsity import Masks, Sparsity
from nacdeploy.network.attachments.weight_sharing import Codebook, OnGrid, Sharing, share
from nacdeploy.network.captured.capture import capture
from nacdeploy.network.captured.graph import (
    WEIGHTED,
    call_with,
    carries_images,
    computed_weight,
    multiplies,
    stack,
)
from nacdeploy.network.semantics import Run, Semantics, Use, run_uncaptured


class Structure:
    """The identity that copies of a network share until their backbone is cut or rebuilt.

    Facts that hold for any values may be cached by a structure. `cut_from` is the structure before a cut, with the same
    wiring and more channels; None for a structure that was built anew.
    """

    def __init__(self, cut_from: "Structure | None" = None) -> None:
        self.cut_from = cut_from

    def __deepcopy__(self, memo: dict[int, Any]) -> "Structure":
        return self


class Network(nn.Module):
    """A plain backbone with quantizers by edge, masks and shared values by layer, exit heads by place, and attachments
    of other operators by tensor.

    The backbone keeps the values that a mask hides, so that a mask can be chosen anew after a cut. A shared weight is
    no parameter of the backbone any more, and is not stored: the weight follows from labels and values.

    `network(x)` answers as the plain network does, (N, K) logits from (N, C, H, W) images; the exits answer through
    `forward_exits`.
    """

    def __init__(self, backbone: nn.Module, grid: Grid, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.input_shape = input_shape
        self.quantizers = nn.ModuleDict()
        self.masks = Masks({})
        self.sharing = Sharing({}, {})
        self.exits = nn.ModuleDict()
        self.attachments = nn.ModuleDict()
        self.grid = grid
        self.rule: Rule | None = None
        self.sparsity: Sparsity | None = None
        self.plan = Plan()
        self.structure = Structure()
        lay_out(backbone, torch.contiguous_format)
        self.captured = capture(backbone, input_shape)
        self.register_load_state_dict_post_hook(_lay_out_shared)

    def example_input(self) -> Tensor:
        """Return a blank image (1, C, H, W), for tools that trace the network."""
        return torch.zeros(1, *self.input_shape)

    @property
    def graph(self) -> fx.Graph | None:
        """The captured graph of the backbone, or None if the backbone cannot be captured."""
        return self.captured.graph

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The convolutions and linear layers that run on every image, by name in the order of the modules.

        A layer runs on images if a node of the graph calls the layer on a value that follows from the images. Without a
        graph, the layers are those of torch's own types.
        """
        found = {name: m for name, m in self.backbone.named_modules() if isinstance(m, WEIGHTED)}
        if self.graph is None:
            return {name: module for name, module in found.items() if type(module) in WEIGHTED}
        called = {str(node.target) for node in self.graph.nodes if node.op == "call_module" and carries_images(node)}
        return {name: module for name, module in found.items() if name in called}

    def rebuild_attachments(self, channels_moved: bool = True) -> None:
        """Make the graph and everything derived from it anew after a change of the backbone.

        Masks were cut with their weights; 2:4 masks are chosen anew if channels have moved to other fours.

        Raises:
            NacdeployError: the cut network no longer computes a tensor that has an attachment.
        """
        self.captured = capture(self.backbone, self.input_shape, self.captured if channels_moved else None)
        self.structure = Structure(self.structure if channels_moved else None)
        for node in (each.node for each in self.attached.values() if channels_moved):
            self._check_node(node)
        if channels_moved and self.sparsity is not None and self.sparsity.pattern == sparsity.TWO_FOUR:
            self.masks = Masks({})
            self.sparsify(self.sparsity)
        if self.rule is not None:
            self.quantize(self.rule)

    @property
    def replaceable(self) -> set[str]:
        """The layers that another module may replace: each is called by itself, with weights of its own, and is all
        that its module computes."""
        if self.graph is None:
            return set(self.layers)
        alone = {str(n.target) for n in self.graph.nodes if n.op == "call_module" and stack(n)[-1:] == [str(n.target)]}
        plain = {name for name, layer in self.layers.items() if type(layer) in WEIGHTED}
        return (plain & alone) - self.captured.weights.keys()

    def left_out(self) -> dict[str, str]:
        """Explain, for each running module whose weights no operator reaches, by name: its class and its function."""
        covered = self.layers
        called = {str(n.target) for n in self.graph.nodes if n.op == "call_module"} if self.graph else set()
        constants = [n for n in self.graph.nodes if n.op == "get_attr"] if self.graph else []
        multiplied = {str(n.target) for n in constants if multiplies(n)}
        found = {}
        for name, module in self.backbone.named_modules():
            matrices = [key for key, p in module.named_parameters(recurse=False) if p.dim() > 1]
            if name in covered or not matrices:
                continue
            kind = type(module).__name__
            if name in called:
                is_layer = isinstance(module, WEIGHTED)
                why = (
                    "reads no images, so that its output is a constant"
                    if is_layer
                    else "layers of this kind stay as they are"
                )
                found[name] = f"{kind}: {why}"
            elif any(f"{name}.{key}".lstrip(".") in multiplied for key in matrices):
                found[name] = f"{kind}: {_way_of_its_own(module)}"
        return found

    def quantize(self, rule: Rule) -> None:
        """Attach quantizers by `rule` in place of the previous ones; `settle` then finds the ranges of new edges."""
        self.rule, former = rule, self.quantizers
        self.plan = placement.plan(self.graph, self.backbone, self.layers, rule, self.grid)
        bits = self.plan.activation_bits
        quantizers = {k: ActivationQuantizer(bits[k], kind, self.grid) for k, kind in sorted(self.plan.kinds.items())}
        for key in quantizers.keys() & former.keys():
            quantizers[key].load_state_dict(former[key].state_dict())
        self.quantizers = nn.ModuleDict(quantizers).train(self.training)

    def sparsify(self, rule: Sparsity) -> None:
        """Attach masks by `rule` in addition to the previous masks: hidden values stay hidden, except under 2:4."""
        masks = {}
        for name, layer in self.layers.items():
            former = self.masks.get(name)
            if rule.why_dense(name, layer) is None:
                masks[name] = sparsity.mask(masked_weight(self, name, layer), rule, name, former)
            elif former is not None:
                masks[name] = former
        self.sparsity, self.masks = rule, Masks(masks).train(self.training)

    def share(self, books: Mapping[str, Codebook]) -> None:
        """Attach shared values by `books`, found in the weights as they run: masked, and on the grid if quantized."""
        shared = {}
        for name, book in books.items():
            layer = self.backbone.get_submodule(name)
            shared[name] = share(masked_weight(self, name, layer).detach(), book, layer_integers(self, name, layer))
            del layer.weight
            layer.register_buffer("weight", torch.zeros(shared[name].labels.shape), persistent=False)
        self.sharing = Sharing(books, shared).train(self.training)
        _lay_out_shared(self)

    def attach(self, node: str, attachment: Attachment) -> None:
        """Put an attachment on the tensor that a node of the graph computes, behind the attachments already there.

        Raises:
            NacdeployError: the graph has no such node, or there is no graph.
        """
        self._check_node(node)
        keys = (f"{node}_{number}" for number in count(1))  # no name of a module's own, such as `keys`
        attachment.node = node
        self.attachments[next(key for key in keys if key not in self.attachments)] = attachment.train(self.training)

    def _check_node(self, node: str) -> None:
        if self.graph is None or node not in {each.name for each in self.graph.nodes}:
            raise NacdeployError(f"nothing can be attached to '{node}': the captured graph has no node of that name")

    @property
    def attached(self) -> dict[str, Attachment]:
        """The attachments by their key, in the order in which they were attached."""
        return {key: each for key, each in self.attachments.items() if isinstance(each, Attachment)}

    def renamed(self, now: Mapping[str, str]) -> None:
        """Move attachments to the new names of their nodes after the graph was made anew."""
        for each in (*self.exits.values(), *self.attachments.values()):
            each.node = now[each.node]  # type: ignore[assignment, index]

    def set_grid(self, grid: Grid) -> None:
        """Change to another target's grid and its edges.

        Raises:
            RefusedError: shared integers do not fit the new grid.
        """
        for name, bits in self.plan.weight_bits.items():
            book = self.sharing.books.get(name)
            if book and book.limits and book.limits[1] > grid.weight_maximum(bits):
                raise RefusedError(
                    f"layer '{name}' shares integers up to {book.limits[1]} (C), and the grid {grid.name} takes "
                    f"{grid.weight_maximum(bits)} at most: share again for that target, its profile given to transfer"
                )
        self.grid = grid
        if self.rule is not None:
            self.quantize(self.rule)

    @property
    def heads(self) -> dict[str, ExitHead]:
        """The exit heads by the graph node they read, in order of execution."""
        position = {node.name: i for i, node in enumerate(self.graph.nodes)} if self.graph else {}
        heads = {head.node: head for head in self.exits.values() if isinstance(head, ExitHead)}
        return dict(sorted(heads.items(), key=lambda item: position[item[0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, Simulation(self))

    def forward_exits(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (N, K) of every exit in order of execution, the network's own last."""
        features, logits = self.features(x)
        return (*(head(features[node]) for node, head in self.heads.items()), logits)

    def features(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tensors that the exit heads read, by node, and the network's own logits (N, K)."""
        found: dict[str, Tensor] = {}
        wanted = {head.node for head in self.heads.values()}
        logits = self.run(x, Simulation(self), lambda node, value: found.update({node: value}), wanted)
        return found, logits

    def run(
        self,
        x: Tensor,
        semantics: Semantics,
        tap: Callable[[str, Any], None] = nobody,
        tapped: set[str] | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Run the backbone under `semantics`, and hand the outputs of the `tapped` nodes (None: all) to `tap`.

        Nodes whose outputs are `known` from an earlier run do not run again.
        """
        if self.graph is None:
            return run_uncaptured(self.backbone, self.layers, self.plan, semantics, x)
        env = {node: known[node.name] for node in self.graph.nodes if node.name in known} if known else None
        run = Run(self.backbone, self.captured, self.plan, self.attached, semantics, tap, tapped)
        return run.run(x, initial_env=env)


class Simulation:
    """Fake quantization and masks: edges pass through their quantizers, weights are masked and rounded to their
    grid."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        return self._network.quantizers[key](x)

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        return call_with(module, x, simulated_weight(self._network, name, module))

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        y: Tensor = module(x)
        return y


def _way_of_its_own(module: nn.Module) -> str:
    """Return how a module of torch's own uses weights that are no layer's."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "its rows are looked up, not multiplied, and stay in float"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "a recurrent layer is one operator, which stays whole and in float"
    if isinstance(module, nn.MultiheadAttention):
        return "its queries, keys and values have one parameter (in_proj_weight) in place of layers"
    return "computes with its weights in a way of its own"


def masked_weight(network: Network, name: str, module: nn.Module) -> Tensor:
    """Return the weight of a layer with its mask applied, or its shared values. Hidden values get no gradient."""
    if name in network.sharing.books:
        return network.sharing.weight(name)
    weight = plain_weight(network, name, module)
    kept = network.masks.get(name)
    return weight if kept is None else weight.masked_fill(~kept, 0.0)


def plain_weight(network: Network, name: str, module: nn.Module) -> Tensor:
    """Return the weight of a layer in the plain network: its parameter, or the value that its module computes."""
    computed = computed_weight(network.backbone, network.captured, name)
    return module.weight if computed is None else computed  # type: ignore[return-value]


def layer_integers(network: Network, name: str, module: nn.Module) -> OnGrid | None:
    """Return the int8 integers and scales (O,) of a quantized layer, shared or not, or None for a float layer."""
    bits = network.plan.weight_bits.get(name)
    if bits is None or network.rule is None:
        return None
    shared = network.sharing.integers(name) if name in network.sharing.books else None
    weight = masked_weight(network, name, module).detach()
    return shared or weight_quantizers.integers(weight, network.rule.weights, bits, network.grid)


def simulated_weight(network: Network, name: str, module: nn.Module) -> Tensor | None:
    """Return the weight of a layer masked and rounded to its grid, or shared, or None for a dense float layer."""
    bits, is_shared = network.plan.weight_bits.get(name), name in network.sharing.books
    is_computed = name in network.captured.weights
    if bits is None and network.masks.get(name) is None and not is_shared and not is_computed:
        return None
    weight = masked_weight(network, name, module)
    if bits is None or network.rule is None or is_shared:
        return weight
    return weight_quantizers.simulated(weight, network.rule.weights, bits, network.grid)


def _lay_out_shared(network: Network, loaded: object = None) -> None:
    """Write the shared values into the backbone's weights after every change, for code that reads the weights there."""
    with torch.no_grad():
        for name in network.sharing.layers:
            network.backbone.get_submodule(name).weight.copy_(network.sharing.weight(name))  # type: ignore[operator]


def lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay out the weights of a module's 2-D convolutions in memory, in place."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameter elements."""
    return sum(parameter.numel() for parameter in module.parameters())


def content(network: Network, with_exits: bool = True) -> dict[str, Tensor]:
    """Return the values of a network by name: its state dict, on request without the exits' part."""
    state = network.state_dict()
    return state if with_exits else {k: v for k, v in state.items() if not k.startswith("exits.")}


@contextmanager
def no_grad_eval(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients, and restore the former mode at the end."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(was_training)
