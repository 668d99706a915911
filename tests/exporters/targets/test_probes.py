"""Probes: the rules on times made up here, and what holds on any CPU; what is fast is never asserted."""

from collections.abc import Callable

import numpy as np
import pytest

from nacdeploy.exporters.targets.ort import probe as probes
from nacdeploy.exporters.targets.ort.probe import CHANNELS, MULTIPLES, Kind, best_multiple, choose_signs, is_exact
from nacdeploy.exporters.targets.ort.probe_models import N_LAYERS, Signs, conv_stack, linear_stack, worst_case
from nacdeploy.exporters.targets.ort.runner import OnnxRunner


@pytest.mark.parametrize("multiple", MULTIPLES)
def test_best_multiple_is_that_which_costs_time_to_miss(multiple: int) -> None:
    times = {channels: channels**2.0 * (1.6 if channels % multiple else 1.0) for channels in CHANNELS}
    assert best_multiple(times) == multiple


def test_best_multiple_is_one_when_time_follows_the_channels() -> None:
    assert best_multiple({channels: channels**2.0 for channels in CHANNELS}) == 1


@pytest.mark.parametrize(
    ("kind", "signed_over_unsigned", "signs"),
    [
        ("conv", 5.0, "unsigned"),
        ("conv", 0.95, "unsigned"),
        ("conv", 0.8, "signed"),
        ("linear", 0.5, "signed"),
        ("linear", 1.05, "signed"),
        ("linear", 1.2, "unsigned"),
    ],
)
def test_choose_signs_keeps_the_default_unless_the_other_wins_clearly(
    kind: Kind, signed_over_unsigned: float, signs: Signs
) -> None:
    assert choose_signs(kind, signed_over_unsigned) == signs


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("signs", ["unsigned", "signed"])
def test_seven_bit_weights_never_saturate(kind: Kind, signs: Signs) -> None:
    assert is_exact(kind, signs, 7)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_worst_case_is_the_largest_sum_there_is(kind: Kind) -> None:
    """Unoptimised, the model answers the sum of all products at their limits, 255 x 127 each."""
    model, images, step = worst_case(kind, "unsigned", 8)
    answer = OnnxRunner(model.SerializeToString(), optimization="disabled").run(images)[0]
    n_products = 64 * (9 if kind == "conv" else 1)
    assert answer.max() == pytest.approx(n_products * 255 * 127 / 64**2, abs=step)
    assert answer.min() == pytest.approx(-n_products * 255 * 127 / 64**2, abs=step)


@pytest.mark.parametrize("measured", [probes.best_conv_encoding, probes.best_linear_encoding])
def test_encoding_is_exact_with_the_bits_it_names(measured: Callable[[], probes.Encoding]) -> None:
    found = measured()
    assert found.is_exact
    assert found.weight_bits in (7, 8)
    assert found.signs == choose_signs(found.kind, found.signed_over_unsigned)
    assert {t.signs for t in found.times} == {"unsigned", "signed"}
    assert measured() is found


def test_channel_multiple_shows_what_it_measured() -> None:
    found = probes.channel_multiple()
    assert {found.float32, found.int8} <= set(MULTIPLES)
    assert {(t.precision, t.channels) for t in found.times} == {(p, c) for p in ("float32", "int8") for c in CHANNELS}
    assert all(t.over_expected == pytest.approx(1.0) for t in found.times if t.channels % MULTIPLES[-1] == 0)


def test_stacks_are_quantised_by_their_signs() -> None:
    for signs, zero_point in (("unsigned", np.uint8), ("signed", np.int8)):
        for model in (conv_stack(8, 4, signs), linear_stack(8, signs)):  # type: ignore[arg-type]
            types = {node.op_type for node in model.graph.node}
            assert {"QuantizeLinear", "DequantizeLinear"} <= types
            zeros = [t for t in model.graph.initializer if t.name.endswith("_z")]
            assert {t.data_type for t in zeros} == {3 if zero_point is np.int8 else 2}
    plain = conv_stack(8, 4, None)
    assert [node.op_type for node in plain.graph.node] == ["Conv", "Relu"] * N_LAYERS
