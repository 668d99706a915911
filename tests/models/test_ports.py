"""Ports: any inputs and outputs as one tensor on each side, and layers that keep their names."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError
from nacdeploy.base.precision import Grid
from nacdeploy.models import ports
from nacdeploy.network.network import Network
from nacdeploy.network.served import Served, served


class Two(nn.Module):
    """An image and token ids in, boxes and logits out; a third argument has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.table = nn.Embedding(20, 8)
        self.boxes, self.logits = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, image: Tensor, ids: Tensor, scale: float | None = None) -> dict[str, Any]:
        x = torch.relu(self.stem(image)) + self.table(ids).mean(1)[:, :, None, None]
        return {
            "boxes": self.boxes(x).flatten(2).transpose(1, 2),
            "maps": (self.logits(x), x.mean((1, 2, 3))),
            "no": None,
        }


BATCH = (torch.rand(3, 3, 6, 6), torch.randint(0, 20, (3, 7)))


@pytest.fixture
def two() -> nn.Module:
    torch.manual_seed(0)
    return Two().eval()


def flat(answer: dict[str, Any]) -> Tensor:
    return torch.cat([each.reshape(3, -1) for each in (answer["boxes"], *answer["maps"])], 1)


def test_answers_come_back_in_the_form_in_which_the_network_gave_them(two: nn.Module) -> None:
    found = ports.found(two, BATCH, ["image", "ids", "scale"])
    expected = two(*BATCH)
    assert [port.name for port in found.outputs] == ["boxes", "maps_1", "maps_2"]
    joined = ports.ported(two, found)(found.packed(BATCH))
    assert torch.equal(joined, flat(expected))
    again = found.restored(joined)
    assert torch.equal(again.boxes, expected["boxes"]) and again["no"] is None
    assert all(torch.equal(a, b) for a, b in zip(again["maps"], expected["maps"], strict=True))


def test_inputs_by_name_are_taken_in_any_order(two: nn.Module) -> None:
    given = {"ids": BATCH[1], "image": BATCH[0]}
    found = ports.found(two, given, ["image", "ids"])
    expected = flat(two(*BATCH))
    packed = found.packed([given[port.name] for port in found.inputs])
    assert torch.equal(ports.ported(two, found)(packed), expected)


def test_network_with_ports_is_captured_with_its_own_names(two: nn.Module) -> None:
    names = [name for name, _ in two.named_modules()]
    found = ports.found(two, BATCH, ["image", "ids"])
    backbone = ports.ported(copy.deepcopy(two), found)
    network = Network(backbone, Grid("ort", 8, ("conv",)), found.input_shape).eval()
    assert network.graph is not None and list(network.layers) == ["stem", "boxes", "logits"]
    assert [name for name, _ in backbone.named_modules()] == names
    with torch.no_grad():
        assert torch.allclose(network(found.packed(BATCH)), flat(two(*BATCH)), atol=1e-6)
    answer = served(network)
    assert isinstance(answer, Served)
    assert torch.allclose(answer(BATCH[0], ids=BATCH[1])["boxes"], two(*BATCH)["boxes"], atol=1e-6)


def test_module_gets_its_own_class_back(two: nn.Module) -> None:
    backbone = ports.ported(copy.deepcopy(two), ports.found(two, BATCH, ["image", "ids"]))
    assert type(backbone) is not Two and isinstance(backbone, Two)
    own = ports.unported(backbone)
    assert type(own) is Two and torch.equal(own(*BATCH)["boxes"], two(*BATCH)["boxes"])


def test_plain_network_stays_as_it_is() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    found = ports.found(plain, torch.rand(3, 1, 2, 2), ["input"])
    assert ports.ported(plain, found) is plain and type(plain) is nn.Sequential
    assert (found.input_shape, found.n_outputs) == ((1, 2, 2), 2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: {"loss": x.mean(), "logits": x}, "output 'loss' has shape ()"),
        (lambda x: x[:1], "the output has shape (1, 4) for a batch of 3"),
        (lambda x: "text", "answers with str"),
    ],
)
def test_answer_without_the_batch_first_is_refused_by_name(answer: Any, said: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return answer(x)

    with pytest.raises(UsageError) as caught:
        ports.found(Odd(), torch.rand(3, 4), ["x"])
    assert said in str(caught.value)


class Words(nn.Module):
    """Token ids, looked up as they are, with places and shifted kinds of tokens; a mask is looked up nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(100, 4), nn.Embedding(6, 4), nn.Embedding(9, 4)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1])) + self.kinds(kinds + 1)
        return (x * mask[:, :, None]).sum(1)


def test_integer_input_has_the_values_of_the_table_that_it_is_looked_up_in() -> None:
    ids, kinds = torch.arange(12).reshape(2, 6) * 9, torch.full((2, 6), 7)
    found = ports.found(Words().eval(), (ids, kinds, torch.ones(2, 6, dtype=torch.long)), ["ids", "kinds", "mask"])
    assert [port.n_values for port in found.inputs] == [100, 9, 6]


def test_sizes_are_asked_of_an_input_that_an_artifact_has() -> None:
    class Reshaping(Two):
        def forward(self, image: Tensor, ids: Tensor, scale: float | None = None) -> Any:
            return self.boxes(self.stem(image)).reshape(len(ids), -1, 4) + ids.sum()

    model = Reshaping().eval()
    found = ports.found(model, BATCH, ["image", "ids"])
    network = Network(ports.ported(model, found), Grid("ort", 8, ("conv",)), found.input_shape)
    assert network.captured.graph is not None, network.captured.why_not
    (packed,) = (node for node in network.captured.graph.nodes if node.op == "placeholder")
    assert {user.target for user in packed.users} == {ports.take}
