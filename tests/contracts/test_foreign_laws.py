"""What holds on networks that were not written for this package: a dozen of as many families, and convolutions along
one and three axes, with random weights in which every branch matters, judged against the original float network."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from small_networks import Heads, Signal, Volume

from nacdeploy.base.errors import RefusedError
from nacdeploy.exporters.artifacts.onnx_checks import snr_db
from nacdeploy.strategies.settle import settle
from nacdeploy.strategies.state import state_key
from nacdeploy.testing import right
from nacdeploy.testing.foreign import Foreign, foreign, of_module, outputs

NETWORKS = (
    "timm:test_byobnet",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "timm:test_mambaout",
    "timm:test_nfnet",
    "timm:test_resnet",
    "timm:test_vit",
    "timm:lcnet_035",
    "timm:mobilenetv3_small_050",
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "Signal",
    "Volume",
    "Heads",
)
OWN = {"Signal": Signal, "Volume": Volume, "Heads": Heads}
ON_INTEGERS = ("timm:test_efficientnet", "timm:test_nfnet", "timm:test_vit", "Signal", "Volume")
EXPORTED = (*ON_INTEGERS, "Heads")


@cache
def made(name: str) -> Foreign:
    return of_module(OWN[name](10), 32) if name in OWN else foreign(name, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_captured_network_answers_as_the_original(name: str) -> None:
    found = right.check_captured(made(name))
    assert found.outcome == "right", found.reason


@pytest.mark.parametrize("name", NETWORKS)
def test_settling_an_untouched_network_changes_nothing(name: str) -> None:
    network = made(name).start.network
    before = state_key(network)
    settle(network, made(name).task, made(name).profile)
    assert state_key(network) == before


@pytest.mark.parametrize("name", NETWORKS)
def test_image_alone_is_answered_as_in_a_batch_after_every_letter(name: str) -> None:
    for letter in ("Q", "S", "E", "P(ratio=0.3)"):
        try:
            network = made(name).after(letter).network
        except RefusedError as error:
            assert letter != "Q", error
            continue
        images = made(name).images(7)
        alone, together = outputs(network, images[:1]), outputs(network, images)[:1]
        assert snr_db(together.numpy(), alone.numpy()) > 80, letter
        assert alone.argmax() == together.argmax()
        assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_exits_leave_the_networks_own_end_as_it_is(name: str) -> None:
    try:
        found = right.check_exits(made(name))
    except RefusedError as error:
        assert "place" in str(error) or "no block end" in str(error)
    else:
        assert found.outcome == "right", found.reason


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_network_answers_as_the_original_without_the_channels(name: str) -> None:
    try:
        found = right.check_prune(made(name))
    except RefusedError as error:
        assert "computes its weight from all of its inputs" in str(error)  # standardised weights, everywhere
    else:
        assert found.outcome == "right", found.reason


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("check", [right.check_sparsify, right.check_chain, right.check_engine])
def test_letters_are_right_on_signals_volumes_and_heads(name: str, check: Callable[[Foreign], right.Found]) -> None:
    found = check(made(name))
    assert found.outcome == "right", found.reason


@pytest.mark.parametrize("name", ON_INTEGERS)
def test_layers_claimed_on_integers_are_nodes_that_ran(name: str) -> None:
    found = right.check_quantize(made(name))
    assert found.figures["claimed"] == found.figures["in_file"] == found.figures["ran"] == found.figures["layers"]
    assert found.figures["db"] > 17  # quantize_static: 12.5 dB on the first


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_file_answers_as_the_original(name: str) -> None:
    found = right.check_export(made(name))
    assert found.figures["fp32_db"] > 80
    assert found.figures["db"] > 17


def test_answers_are_numbers() -> None:
    assert all(torch.isfinite(made(name).answers()).all() for name in NETWORKS)
