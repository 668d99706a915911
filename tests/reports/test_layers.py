"""What became of each layer."""

import torch
from small_networks import SHAPE, Plain

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.reports.layers import layer_changes


def plain() -> Network:
    torch.manual_seed(0)
    return Network(Plain(), grid_named("ort"), SHAPE).eval()


def test_untouched_layers_keep_their_macs() -> None:
    changes = layer_changes(plain(), plain())
    assert [c.layer for c in changes] == ["0", "3", "8"]
    assert all(c.macs_before == c.macs_after > 0 for c in changes)
    assert changes[0].what == "3-8 to 3-8 w32a32"


def test_quantized_layer_names_its_precision() -> None:
    quantized = plain()
    quantized.quantize(Rule(Precision(8, 8)))
    assert {c.weight_bits for c in layer_changes(plain(), quantized)} == {8}
    assert layer_changes(plain(), quantized)[1].what.endswith("w8a8")


def test_factors_of_a_layer_count_together() -> None:
    factored = plain()
    factored.backbone[3] = torch.nn.Sequential(torch.nn.Conv2d(8, 2, 1), torch.nn.Conv2d(2, 16, 3, padding=1))
    factored.changed()
    change = layer_changes(plain(), factored)[1]
    assert change.macs_after == 64 * (8 * 2 + 2 * 16 * 9)
    assert change.what == "8-16 to 8-2 + 2-16 w32a32"


def test_layer_that_is_no_more_is_said_to_be_gone() -> None:
    shorter = plain()
    shorter.backbone[0] = torch.nn.Conv2d(3, 16, 1)
    shorter.backbone[1] = torch.nn.BatchNorm2d(16)
    shorter.backbone[3], shorter.backbone[4] = torch.nn.Identity(), torch.nn.Identity()
    shorter.changed()
    assert layer_changes(plain(), shorter)[1].what == "8-16 gone"
