"""Where quantizers stand, rule by rule on small graphs, in the plan and in the graph that is exported."""

import itertools
import random
from collections.abc import Callable
from functools import cache, partial

import onnx
import pytest
import small_networks
import torch
from onnx import numpy_helper
from small_networks import Attention, Concat, FlattenLinear, Plain, Residual, Signal, conv, images, network
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy import models
from nacdeploy.base.precision import Precision
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets import grid_named, grid_names
from nacdeploy.network.attachments import placement
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.testing import counted

W8A8 = Precision(8, 8)
BOTH = pytest.mark.parametrize("grid", ["ort", "trt"])
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@cache
def quantized(kind: Callable[[], nn.Module], grid: str, *exclude: str) -> Network:
    made = network(kind(), grid)
    made.quantize(Rule(W8A8, exclude))
    return made


def reads(made: Network) -> dict[str, list[str]]:
    """By reading node: the nodes whose values it reads quantized."""
    assert made.graph is not None
    nodes = {node.name: node for node in made.graph.nodes}
    return {
        reader: [nodes[reader].all_input_nodes[position].name for position in sorted(keys)]
        for reader, keys in made.plan.inputs.items()
    }


@cache
def exported(made: Network) -> onnx.ModelProto:
    return onnx.load_model_from_string(to_onnx(made, 20).model)


def between(made: Network) -> set[str]:
    """The edges of the exported graph by the operators at their ends: "Conv > Relu" where values pass as they are,
    "Relu >Q> Conv" where they pass a Q/DQ pair."""
    graph = exported(made).graph
    makers = {name: node for node in graph.node for name in node.output}
    found = set()
    for node in graph.node:
        for name in node.input if node.op_type not in (QUANTIZE, DEQUANTIZE) else ():
            maker, arrow = makers.get(name), ">"
            if maker is not None and maker.op_type == DEQUANTIZE:
                source = makers.get(maker.input[0])
                if source is None:  # a weight
                    continue
                maker, arrow = makers.get(source.input[0]), ">Q>"
            is_image = name in {value.name for value in graph.input}
            if maker is not None or is_image or arrow == ">Q>":
                found.add(f"{maker.op_type if maker else 'images'} {arrow} {node.op_type}")
    return found


# --- 1. inputs of convolutions, linear layers and products -------------------------------------------------------


@BOTH
def test_convolutions_and_linear_layers_read_their_input_quantized(grid: str) -> None:
    made = quantized(Plain, grid)
    found = reads(made)
    assert (found["_0"], found["_3"], found["_8"]) == (["images"], ["_2"], ["_7"])
    assert {"images >Q> Conv", "Relu >Q> Conv", "Reshape >Q> Gemm"} <= between(made)


@BOTH
def test_products_of_two_tensors_read_both_quantized(grid: str) -> None:
    made = quantized(Attention, grid)
    found = reads(made)
    assert found["matmul"] == ["query", "transpose_1"]
    assert found["matmul_1"] == ["softmax", "value"]
    assert "Softmax >Q> MatMul" in between(made)


@BOTH
def test_softmax_and_layer_norm_stay_in_float(grid: str) -> None:
    made = quantized(Attention, grid)
    assert not {"softmax", "norm"} & reads(made).keys()
    edges = between(made)
    assert "MatMul > Softmax" in edges
    assert {edge for edge in edges if edge.endswith("LayerNormalization")} == {"Add > LayerNormalization"}


@BOTH
def test_excluded_product_reads_floats(grid: str) -> None:
    found = reads(quantized(Attention, grid, "matmul_1"))
    assert "matmul" in found
    assert "matmul_1" not in found


# --- 2. convolution, batch norm, activation ----------------------------------------------------------------------


class Activated(Plain):
    """With another first activation."""

    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self[2] = activation()


@BOTH
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_nothing_stands_between_convolution_norm_and_clamp(grid: str, activation: Callable[[], nn.Module]) -> None:
    made = quantized(partial(Activated, activation), grid)
    assert not {"_1", "_2", "_4", "_5"} & reads(made).keys()
    behind = {edge for edge in between(made) if edge.startswith("Conv ")}
    assert behind == {"Conv > Relu", *(["Conv > Clip"] if activation is nn.ReLU6 else [])}


# --- 3. pools ----------------------------------------------------------------------------------------------------


@BOTH
def test_max_pool_reads_what_is_read_behind_it_on_the_same_scale(grid: str) -> None:
    made = quantized(FlattenLinear, grid)
    assert made.plan.inputs["_2"] == made.plan.inputs["_4"]
    assert {"Relu >Q> MaxPool", "MaxPool > Reshape", "Reshape >Q> Gemm"} <= between(made)


def test_max_pool_stays_in_float_where_nothing_behind_it_reads_integers() -> None:
    made = quantized(FlattenLinear, "trt", "4")
    assert "_2" not in reads(made)
    assert "Relu > MaxPool" in between(made)


@BOTH
def test_average_pool_reads_integers_behind_a_quantized_convolution(grid: str) -> None:
    assert "Relu >Q> GlobalAveragePool" in between(quantized(Plain, grid))


@BOTH
def test_average_pool_reads_floats_behind_a_float_convolution(grid: str) -> None:
    assert "Relu > GlobalAveragePool" in between(quantized(Plain, grid, "3"))


# --- 4. concatenations -------------------------------------------------------------------------------------------


class Nested(nn.Module):
    """A concatenation of a concatenation, as in a DenseNet, and of a pooled tensor, as in an Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3, 4), conv(4, 4), conv(8, 4)
        self.pool, self.last, self.classifier = nn.MaxPool2d(3, 1, 1), conv(20, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.cat([x, torch.relu(self.second(x))], 1)
        x = torch.cat([x, self.pool(x), torch.relu(self.third(x))], 1)
        return self.classifier(torch.relu(self.last(x)).mean((2, 3)))


@BOTH
def test_operands_of_a_concatenation_share_one_scale(grid: str) -> None:
    made = quantized(Concat, grid)
    assert reads(made)["cat"] == ["left", "right"]
    assert set(made.plan.inputs["cat"].values()) == {"cat"}
    model = exported(made)
    (joined,) = (node for node in model.graph.node if node.op_type == "Concat")
    makers = {name: node for node in model.graph.node for name in node.output}
    pairs = [makers[name] for name in joined.input]
    assert {pair.op_type for pair in pairs} == {DEQUANTIZE}
    assert len({pair.input[1] for pair in pairs}) == 1 < len({pair.input[0] for pair in pairs})


@BOTH
def test_concatenations_that_meet_share_one_scale(grid: str) -> None:
    made = quantized(Nested, grid)
    assert reads(made)["cat_1"] == ["cat", "pool", "relu_2"]
    assert {key for reader in ("cat", "cat_1", "last") for key in made.plan.inputs.get(reader, {}).values()} <= {
        "cat_1"
    }


def test_concatenation_with_a_float_operand_stays_in_float_where_no_layer_reads_it() -> None:
    assert "cat" not in reads(quantized(Concat, "trt", "left"))


class Skip(nn.Module):
    """A convolution reads what another computed and what that one read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.classifier = conv(3, 4), conv(7, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.first(x)), x], 1)
        return self.classifier(torch.relu(self.last(x)).mean((2, 3)))


@BOTH
def test_concatenation_with_a_float_operand_is_quantized_where_a_layer_reads_it(grid: str) -> None:
    made = quantized(Skip, grid)
    assert reads(made)["cat"] == ["relu", "images"]
    assert made.plan.inputs["last"][0] in made.plan.inputs["cat"].values()


# --- additions ---------------------------------------------------------------------------------------------------


class TwoConvolutions(nn.Module):
    """An addition of two convolutions, as in a block that halves its resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shortcut, self.body, self.classifier = conv(3, 8), conv(8, 8), conv(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.classifier(torch.relu(self.shortcut(x) + self.body(x)).mean((2, 3)))


def test_addition_on_ort_reads_both_operands_quantized() -> None:
    made = quantized(Residual, "ort")
    assert reads(made)["add"] == ["stem_2", "bn2"]
    assert {"Relu >Q> Add", "Conv >Q> Add", "Add > Relu"} <= between(made)


def test_addition_on_trt_fuses_with_the_convolution_and_the_activation() -> None:
    made = quantized(Residual, "trt")
    assert reads(made)["add"] == ["stem_2"]
    edges = between(made)
    assert {"Relu >Q> Add", "Conv > Add", "Add > Relu"} <= edges
    assert "Conv >Q> Add" not in edges


@pytest.mark.parametrize(("grid", "quantized_operands"), [("ort", ["shortcut", "body"]), ("trt", ["shortcut"])])
def test_addition_of_two_convolutions_on_trt_fuses_with_the_last(grid: str, quantized_operands: list[str]) -> None:
    assert reads(quantized(TwoConvolutions, grid))["add"] == quantized_operands


def test_addition_on_trt_reads_no_floats_quantized() -> None:
    assert "add" not in reads(quantized(Residual, "trt", "stem"))


# --- smooth activations ------------------------------------------------------------------------------------------


class Smooth(nn.Module):
    """A convolution, a norm, a smooth activation, a second convolution."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.classifier = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8), nn.Linear(8, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.first(x)))
        return self.classifier(torch.relu(self.second(x)).mean((2, 3)))


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.SiLU": nn.SiLU(),
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "functional.silu": functional.silu,
    "nn.Hardswish": nn.Hardswish(),
    "x * relu6(x + 3) / 6": lambda x: x * functional.relu6(x + 3) / 6,
    "x * hardsigmoid(x)": lambda x: x * functional.hardsigmoid(x),
}


@pytest.mark.parametrize("activation", SMOOTH.values(), ids=SMOOTH)
def test_smooth_activation_on_trt_is_not_split_from_its_convolution(activation: Callable[[Tensor], Tensor]) -> None:
    made = quantized(partial(Smooth, activation), "trt")
    assert set(reads(made)) == {"first", "second", "mean", "classifier"}
    assert {edge for edge in between(made) if ">Q>" in edge and edge.startswith("Conv ")} == set()


@pytest.mark.parametrize("activation", SMOOTH.values(), ids=SMOOTH)
def test_smooth_activation_on_ort_reads_integers(activation: Callable[[Tensor], Tensor]) -> None:
    made = quantized(partial(Smooth, activation), "ort")
    assert made.graph is not None
    found = reads(made)
    readers = [node.name for node in made.graph.nodes if "norm" in [source.name for source in node.all_input_nodes]]
    assert readers
    assert all("norm" in found[reader] for reader in readers)


# --- 5. float layers ---------------------------------------------------------------------------------------------


@BOTH
def test_excluded_layers_hold_floats(grid: str) -> None:
    made = quantized(Residual, grid, "conv1", "classifier")
    assert not {"conv1", "classifier"} & made.plan.weight_bits.keys()
    model = exported(made)
    weights = {t.name: numpy_helper.to_array(t).dtype.name for t in model.graph.initializer}
    assert (weights["layers.conv1.weight"], weights["layers.conv2.weight_q"]) == ("float32", "int8")
    assert "ReduceMean > Gemm" in between(made)


@pytest.mark.parametrize(("grid", "reads_integers"), [("ort", True), ("trt", False)])
def test_excluded_convolution_behind_a_quantized_one_reads_integers_on_ort_alone(
    grid: str, reads_integers: bool
) -> None:
    """There the quantized one has to write integers to run on them."""
    made = quantized(Plain, grid, "3")
    assert ("_3" in reads(made)) == reads_integers
    assert ("Relu >Q> Conv" in between(made)) == reads_integers


# --- fewer layers, fewer edges -----------------------------------------------------------------------------------


def uses(made: Network, exclude: tuple[str, ...]) -> set[tuple[str, int]]:
    found = placement.plan(made.graph, made.backbone, made.layers, Rule(W8A8, exclude), made.grid)
    return {(reader, position) for reader, keys in found.inputs.items() for position in keys}


def members(made: Network) -> list[str]:
    """What can be excluded: the layers and the products."""
    assert made.graph is not None
    return [*made.plan.weight_bits, *(n.name for n in made.graph.nodes if n.target in placement.PRODUCTS)]


SMALL = [Plain, Residual, Concat, Nested, Skip, TwoConvolutions, FlattenLinear, Attention]


@pytest.mark.parametrize("grid", [*dict.fromkeys(grid_names())])
@pytest.mark.parametrize("backbone", SMALL)
def test_every_exclusion_leaves_a_subset_of_the_edges_of_any_smaller_one(
    backbone: Callable[[], nn.Module], grid: str
) -> None:
    made = quantized(backbone, grid)
    names = members(made)
    found = {s: uses(made, s) for n in range(len(names) + 1) for s in itertools.combinations(names, n)}
    for excluded, edges in found.items():
        for name in set(names) - set(excluded):
            more = tuple(n for n in names if n in excluded or n == name)
            assert found[more] <= edges, (excluded, name)


@BOTH
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "deit_tiny"])
def test_exclusions_in_real_networks_leave_a_subset_of_the_edges(name: str, grid: str) -> None:
    spec = models.resolve(name, n_classes=5, channels=3, input_size=(32, 32))
    made = Network(spec.build().eval(), grid_named(grid), (3, 32, 32))
    made.quantize(Rule(W8A8))
    names, draw = members(made), random.Random(0)
    everything = uses(made, ())
    for _ in range(20):
        some = tuple(draw.sample(names, draw.randrange(len(names))))
        more = (*some, draw.choice(names))
        assert uses(made, more) <= uses(made, some) <= everything
    assert uses(made, tuple(names)) == set()


# --- 6. integers between layers ----------------------------------------------------------------------------------


class Gates(nn.Module):
    """conv - SiLU - two halves, of which one runs through a convolution - their sum times a gate - conv, with a product
    behind the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.part, self.gate = conv(3, 8), conv(4, 4), nn.Conv2d(4, 4, 1)
        self.last = conv(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = functional.silu(self.first(x)).chunk(2, 1)
        x = left + self.part(right)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = self.last(x)
        return (x * torch.sigmoid(x)).mean((2, 3))


def wide(grid: str) -> Network:
    made = network(Gates(), grid)
    made.quantize(Rule(W8A8, integers_between=True))
    return made


def test_gates_products_and_parts_stay_on_integers() -> None:
    edges = between(wide("ort"))
    assert {"Conv >Q> Sigmoid", "Sigmoid >Q> Mul", "Mul >Q> Split", "Add >Q> Mul", "Mul >Q> Conv"} <= edges


def test_gates_behind_the_last_layer_stay_float() -> None:
    found = reads(wide("ort"))
    (last,) = (name for name in found if name.startswith("mul") and "last" in found[name])
    assert found[last] == ["last"]


def test_rules_of_older_files_leave_gates_and_parts_float() -> None:
    made = network(Gates(), "ort")
    made.quantize(Rule(W8A8))
    assert "Sigmoid >Q> Mul" not in between(made)
    assert "Mul >Q> Split" not in between(made)


def test_kernels_that_fuse_keep_a_smooth_activation_whole() -> None:
    assert "Sigmoid >Q> Mul" not in between(wide("trt"))


def test_rule_of_an_older_file_leaves_signals_and_their_pools_as_they_were() -> None:
    made = network(Signal())
    made.quantize(Rule(W8A8))
    assert set(made.plan.weight_bits) == {"classifier"} and set(made.plan.kinds.values()) == {"linear"}
    made.quantize(Rule(W8A8, every_convolution=True))
    assert set(made.plan.weight_bits) == set(made.layers) and "conv" in made.plan.kinds.values()


class NormBehind(nn.Module):
    """A norm behind the activation, as in older networks: no layer can take it in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.norm(torch.relu(self.first(x))), 2)
        return self.classifier(torch.relu(self.second(x)).mean((2, 3)))


def test_norm_behind_an_activation_reads_integers_so_that_its_layer_writes_them() -> None:
    made = network(NormBehind())
    made.quantize(Rule(W8A8))
    assert "norm" not in made.plan.inputs
    made.quantize(Rule(W8A8, every_convolution=True))
    assert made.plan.inputs["norm"] == {0: "relu"} and made.plan.inputs["second"] == {0: "norm"}
    nested = network(Plain())
    nested.quantize(Rule(W8A8, every_convolution=True))
    assert not any(reader in nested.plan.inputs for reader in ("1", "4", "_1", "_4"))


def test_layer_before_a_norm_behind_an_activation_runs_on_integers() -> None:
    made = small_networks.quantized(network(NormBehind()))
    assert counted.integer_nodes_that_run(to_onnx(made, 20).model, images(1).numpy()) >= 2
