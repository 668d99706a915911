"""The captured graph answers as the network does, on networks as users write them."""

import collections
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from small_networks import SHAPE, DataDependent, Residual
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import weight_norm

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.captured.capture import capture, first_tensor
from nacdeploy.network.captured.decibels import snr_db
from nacdeploy.network.captured.graph import Captured, Interpreter
from nacdeploy.network.network import Network


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Optional(nn.Module):
    """An argument that is None by default changes everything where it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor, mirrored: Tensor | None = None, size: object = None) -> Tensor:
        if mirrored is not None:
            x = torch.flip(x, (-1,))
        size = x.shape[-2:] if size is None else size
        return self.head(functional.interpolate(self.conv(x), size=size).mean((2, 3)))


class View(nn.Module):
    """LeNet's way to the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.conv(x)).view(x.size(0), -1))


class NormWithActivation(nn.BatchNorm2d):
    """timm's BatchNormAct2d."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return self.act(x)


class SamePadding(nn.Conv2d):
    """timm's Conv2dSame."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, self.padding)


class Standardised(nn.Conv2d):
    """timm's StdConv2d."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        weight = ((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)).view_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Subclasses(nn.Sequential):
    def __init__(self) -> None:
        body = (SamePadding(3, 8, 3, 2), NormWithActivation(8), Standardised(8, 12, 3, padding=1), nn.GELU())
        super().__init__(*body, nn.Flatten(), nn.Linear(192, 5))


Named = collections.namedtuple("Named", ["logits", "hidden"])


@dataclass
class Fields:
    logits: Tensor
    hidden: Tensor


class Answers(nn.Module):
    def __init__(self, made: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.body, self.made = Residual(), made

    def forward(self, x: Tensor) -> object:
        return self.made(self.body(x), x)


class Query(nn.Module):
    """A learned query, a table and a constant, none of them fed by an input; attention of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.query = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)
        self.table = torch.arange(8.0)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.table * torch.tensor(0.1)
        query = self.query.expand(x.shape[0], -1, -1)
        return self.head(self.attention(query, tokens, tokens)[0][:, 0])


class InPlace(nn.Module):
    """Values that change in place, one of them through a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x[:, 1] += 1.0
        y = x * 1
        functional.relu_(y)
        y += x
        return self.head(y.mean((2, 3)))


class NoGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.body(x).relu()
        return self.head(y.mean((2, 3)))


def old_weight_norm() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))


def new_weight_norm() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, 2))
    return nn.Sequential(normed, nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    rows = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8))
    return nn.Sequential(rows, nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(24, 5))


def circular() -> nn.Module:
    conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class InPlaceHead(nn.Sequential):
    """Changes in place behind a flatten (torchvision's classifiers), with norms before and a slice that is changed."""

    def __init__(self, with_slice: bool) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Flatten(), nn.ReLU(inplace=True))
        self.with_slice, self.head = with_slice, nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self[1](self[0](x))
        if self.with_slice:
            x[:, 0] *= 2
        return self.head(self[3](self[2](x)))


NETWORKS = {
    "residual": Residual,
    "optional": Optional,
    "view": View,
    "subclasses": Subclasses,
    "tuple": lambda: Answers(lambda y, z: (y, z)),
    "named tuple": lambda: Answers(Named),
    "dict": lambda: Answers(lambda y, z: {"out": y, "aux": z}),
    "dataclass": lambda: Answers(Fields),
    "query": Query,
    "in place": InPlace,
    "in place behind a view": lambda: InPlaceHead(False),
    "in place in a slice": lambda: InPlaceHead(True),
    "no gradient": NoGradient,
    "old weight norm": old_weight_norm,
    "new weight norm": new_weight_norm,
    "encoder": encoder,
    "circular": circular,
}


def captured(backbone: nn.Module) -> Captured:
    found = capture(backbone, SHAPE)
    assert found.graph is not None, found.why_not
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("n_images", [1, 2, 7])
def test_graph_answers_as_the_network_bit_for_bit(name: str, n_images: int) -> None:
    backbone = NETWORKS[name]().eval()
    x = torch.randn(n_images, *SHAPE)
    with torch.no_grad():
        answer, expected = Interpreter(backbone, captured(backbone)).run(x), first_tensor(backbone(x))
    if name == "encoder":  # torch runs it by one operator that hides its layers; the graph holds them
        assert snr_db(expected, answer) > 100
    else:
        assert torch.equal(answer, expected)


def called(backbone: nn.Module) -> set[str]:
    graph = captured(backbone).graph
    assert graph is not None
    return {str(node.target) for node in graph.nodes if node.op == "call_module"}


def test_subclasses_of_layers_and_norms_are_calls_of_their_modules() -> None:
    backbone = Subclasses()
    assert called(backbone) == {"0", "1", "2", "5"}
    assert set(captured(backbone).weights) == {"2"}


@pytest.mark.parametrize("with_slice", [False, True])
def test_norms_are_calls_of_modules_whatever_is_changed_in_place(with_slice: bool) -> None:
    assert called(InPlaceHead(with_slice)) == {"0", "1", "head"}


def test_layer_that_its_parent_runs_is_a_call_and_weights_of_attention_are_not() -> None:
    assert "attention.out_proj" in called(Query())
    assert not any("in_proj" in name for name in called(Query()))


def test_computed_weight_follows_its_parameters_in_training() -> None:
    backbone = old_weight_norm()
    x, found = torch.randn(2, *SHAPE), captured(backbone)
    Interpreter(backbone, found).run(x).sum().backward()
    assert backbone[0].weight_g.grad is not None  # type: ignore[index, union-attr]


def test_network_with_an_older_weight_norm_can_be_copied() -> None:
    import copy

    backbone = old_weight_norm()
    backbone(torch.randn(2, *SHAPE))
    captured(backbone)
    copy.deepcopy(backbone)


class Deep(nn.Module):
    """Stochastic depth: nothing in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if self.training else x


def test_dropout_and_stochastic_depth_act_in_training() -> None:
    for module in (nn.Dropout(1.0), Deep()):
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 5, bias=False), module)
        found, x = captured(backbone), torch.randn(2, *SHAPE)
        assert Interpreter(backbone.eval(), found).run(x).abs().sum() > 0
        assert Interpreter(backbone.train(), found).run(x).abs().sum() == 0


def test_batch_norm_learns_in_training() -> None:
    backbone = nn.Sequential(NormWithActivation(3), nn.Flatten(), nn.Linear(192, 5))
    found = captured(backbone)
    Interpreter(backbone.train(), found).run(3 + torch.randn(8, *SHAPE))
    assert backbone[0].running_mean.min() > 0.1  # type: ignore[operator, union-attr]


def test_view_takes_any_layout() -> None:
    backbone = View().eval()
    found = captured(backbone)
    backbone.to(memory_format=torch.channels_last)
    x = torch.randn(2, *SHAPE).contiguous(memory_format=torch.channels_last)
    expected = backbone.head(torch.relu(backbone.conv(x)).flatten(1))
    assert snr_db(expected, Interpreter(backbone, found).run(x)) > 100


def test_network_with_data_dependent_control_flow_is_not_captured_and_says_why() -> None:
    found = capture(DataDependent(), SHAPE)
    assert found.graph is None
    assert found.why_not


def test_capture_changes_nothing() -> None:
    network = Residual().train()
    network.bn1.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capture(network, SHAPE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert not network.bn1.training


def test_modules_whose_weights_no_operator_reaches_are_named() -> None:
    """Attention's projections run by hand, an LSTM, a table of embeddings: they stay float, and that is said."""
    made = Network(Query().eval(), grid_named("ort"), SHAPE)
    assert set(made.layers) == {"stem", "attention.out_proj", "head"}
    assert made.left_out() == {
        "attention": "MultiheadAttention: its queries, keys and values have one parameter (in_proj_weight) in place of "
        "layers",
    }
    assert "attention.out_proj" not in made.replaceable


def test_layer_with_a_computed_weight_is_quantized_as_it_runs() -> None:
    """Standardised weights are rounded, not the parameters that they come from."""
    made = Network(Subclasses().eval(), grid_named("ort"), SHAPE)
    made.quantize(Rule(Precision(8, 8)))
    assert set(made.plan.weight_bits) == {"0", "2", "5"}
    x = torch.randn(4, *SHAPE)
    for quantizer in made.quantizers.values():
        quantizer.set_range(-4.0, 4.0)  # type: ignore[operator]
    assert 12 < snr_db(made.backbone(x), made(x)) < 60


def test_copies_of_a_network_are_alike_and_a_changed_one_is_not() -> None:
    """A graph that is known from another network of the same structure serves where it answers alike, only there."""

    class Scaled(Residual):
        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.factor

    one, other = Scaled().eval(), Scaled().eval()
    assert capture(one, SHAPE) is capture(other, SHAPE)
    other.factor = 2.0
    found = capture(other, SHAPE)
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(Interpreter(other, found).run(x), other(x))


def test_forked_child_can_train_after_a_capture() -> None:
    """In a process of its own, whose first backward would come behind the capture."""
    program = (
        "import os, torch; from torch import nn; from nacdeploy.network.captured.capture import capture\n"
        "layer = nn.Linear(4, 2); capture(layer, (4,)); layer(torch.ones(1, 4)).sum().backward()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: layer(torch.ones(1, 4)).sum().backward()\n"
        "    except BaseException: os._exit(1)\n"
        "    os._exit(0)\n"
        "raise SystemExit(os.waitpid(child, 0)[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
