"""Places for exits, found in the graph alone."""

import pytest
from small_networks import SHAPE, Concat, Plain, Residual
from torch import fx, nn

from nacdeploy import models
from nacdeploy.network.attachments.exit_places import exit_places, named_place
from nacdeploy.network.captured.capture import capture
from nacdeploy.network.captured.graph import carries_images


def graph_of(backbone: nn.Module, shape: tuple[int, ...] = (3, 32, 32)) -> fx.Graph:
    found = capture(backbone, shape)
    assert found.graph is not None, found.why_not
    return found.graph


def places_of(backbone: nn.Module, *shape: int) -> list[str]:
    graph = graph_of(backbone, *([shape] if shape else []))
    return [place.name for place in exit_places(graph, backbone)]


def nodes_of(backbone: nn.Module, shape: tuple[int, ...] = (3, 32, 32)) -> list[str]:
    graph = graph_of(backbone, shape)
    return [place.node for place in exit_places(graph, backbone)]


def built(name: str, **keywords: object) -> nn.Module:
    given = {"n_classes": 10, "channels": 3, "input_size": (32, 32), **keywords}
    return models.resolve(name, **given).build()  # type: ignore[arg-type]


def test_resnet20_has_a_place_after_every_block_but_the_last() -> None:
    blocks = [f"stages.{stage}.{block}" for stage in range(3) for block in range(3)]
    assert places_of(built("resnet20")) == blocks[:-1]


def test_resnet8_has_a_place_after_every_block_but_the_last() -> None:
    assert places_of(built("resnet8")) == ["stages.0.0", "stages.1.0"]


def test_mobilenet_has_places_at_the_ends_of_its_blocks() -> None:
    places = places_of(built("mobilenet_v2", width=0.25))
    assert len(places) >= 16
    assert all(place.startswith("stages.") and place.count(".") == 2 for place in places)


def test_transformer_has_places_at_the_ends_of_its_blocks() -> None:
    places = places_of(built("deit_tiny", width=24))
    assert places == [f"stages.{stage}.{block}" for stage in range(4) for block in range(3)][:-1]


def test_torchvision_resnet18_has_nacs_places() -> None:
    """NAC places exits after the blocks of ResNet18 too: eight blocks, and none where only the classifier follows."""
    places = places_of(built("torchvision:resnet18"))
    assert places == [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)][:-1]


def test_plain_sequential_has_places_after_its_activations() -> None:
    deep = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())])
    network = nn.Sequential(*deep, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    assert nodes_of(network) == ["_1", "_3"]


@pytest.mark.parametrize("backbone", [Plain, Residual, Concat])
def test_place_holds_a_single_live_tensor(backbone: type[nn.Module]) -> None:
    """Running on from the place's own tensor alone gives the network's answer."""
    network = backbone().eval()
    graph = graph_of(network, SHAPE)
    for place in exit_places(graph, network):
        nodes = list(graph.nodes)
        position = next(i for i, node in enumerate(nodes) if node.name == place.node)
        read_later = {arg.name for node in nodes[position + 1 :] for arg in node.all_input_nodes}
        before = {node.name for node in nodes[: position + 1] if carries_images(node)}
        assert read_later & before == {place.node}


def test_linear_only_network_has_places() -> None:
    network = nn.Sequential(
        nn.Flatten(), *[m for _ in range(3) for m in (nn.Linear(12, 12), nn.ReLU())], nn.Linear(12, 5)
    )
    assert nodes_of(network, (12, 1, 1)) == ["_2", "_4"]


def test_network_of_one_layer_has_no_place() -> None:
    assert places_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 12, 1, 1) == []


def test_named_module_is_a_place_where_one_tensor_is_alive() -> None:
    network = Residual()
    graph = graph_of(network, SHAPE)
    assert named_place(graph, network, "stem") is not None
    assert named_place(graph, network, "conv1") is None
    assert named_place(graph, network, "nowhere") is None
