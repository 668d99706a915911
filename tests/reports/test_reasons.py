"""Each sentence from the facts that make it true."""

from dataclasses import replace

import pytest

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets.ort.layer_facts import LayerFacts
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.reports.reasons import Alignment, alignment, why

FIT = alignment(64, 64, 8)
RULE = Rule(Precision(8, 8), exclude=("head", "stem"), min_channels=16)
INT8 = LayerFacts("body.0", "int8", ("QLinearConv",), 0.010, 0.0, 0.021, 2.1)
FLOAT = LayerFacts("body.0", "float32", ("Conv",), 0.010, 0.0, 0.010, 1.0)


def int8(kind: str = "conv", fit: Alignment = FIT, **changes: object) -> str:
    return why(replace(INT8, **changes), kind, "w8a8", "int8", "", RULE, fit).text  # type: ignore[arg-type]


def in_float(
    fit: Alignment = FIT, asked: str = "w32a32", lowered: str = "", rule: Rule | None = RULE, **changes: object
) -> str:
    return why(replace(FLOAT, **changes), "conv", asked, "float32", lowered, rule, fit).text  # type: ignore[arg-type]


def test_layer_that_gains_says_how_much() -> None:
    reason = why(INT8, "conv", "w8a8", "int8", "", RULE, alignment(44, 44, 16))
    assert reason.is_gain
    assert reason.text == "INT8, 2.1x faster than its float twin"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"kind": "depthwise conv", "twin_ratio": 0.8},
            "INT8, but depthwise: no faster kernel here (1.2x slower than its float twin)",
        ),
        (
            {"twin_ratio": 0.9, "twin_ms": 0.009, "reformat_ms": 0.004},
            "INT8, but quantise/dequantise around it takes longer than it saves (4 us of 10 us)",
        ),
        (
            {"twin_ratio": 1.05, "twin_ms": 0.0105, "reformat_ms": 0.004},
            "INT8, but quantise/dequantise around it takes most of what it saves (4 us of 10 us)",
        ),
        (
            {"twin_ratio": 0.5, "twin_ms": 0.005, "fit": alignment(3, 64, 8)},
            "INT8, but fewer than 16 channels: 2.0x slower than its float twin",
        ),
        (
            {"kind": "product", "twin_ratio": 1.0, "twin_ms": 0.010, "fit": alignment(None, None, 8)},
            "INT8, but a product of two activations: as slow as its float twin",
        ),
        (
            {"twin_ratio": 1.0, "twin_ms": 0.010},
            "INT8, but as slow as its float twin: the kernel is no faster at this size",
        ),
        (
            {"twin_ratio": 1.0, "twin_ms": 0.010, "fit": alignment(48, 44, 16)},
            "INT8, but as slow as its float twin: the kernel is no faster at this size; "
            "unaligned: 44 of 48 output channels used",
        ),
        ({"twin_ratio": None, "twin_ms": 0.0005}, "INT8, too short to time"),
    ],
)
def test_int8_layer_without_gain_says_why(changes: dict, text: str) -> None:
    assert int8(**{"twin_ms": 0.009, **changes}) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rule": None}, "float: the chain has no Q"),
        ({"layer": "stem"}, "float: excluded (quantize.exclude, min_snr_db or max_drop)"),
        ({"layer": "head.fc"}, "float: excluded (quantize.exclude, min_snr_db or max_drop)"),
        ({"fit": alignment(3, 64, 8)}, "float: fewer than 16 channels"),
        ({"fit": alignment(64, 8, 8)}, "float: fewer than 16 channels"),
        ({"asked": "w8a8", "lowered": "activation input is not quantised"}, "float: activation input is not quantised"),
        ({}, "float: left so by the chain"),
        ({"asked": ""}, "float: Q does not cover it"),
        ({"rule": None, "reformat_ms": 0.004}, "float: the chain has no Q; 4 us of its 10 us convert between formats"),
        (
            {"rule": None, "fit": alignment(44, 64, 8)},
            "float: the chain has no Q; unaligned: 44 of 48 input channels used",
        ),
    ],
)
def test_float_layer_says_why(changes: dict, text: str) -> None:
    assert in_float(**changes) == text


def test_layer_whose_int8_the_runtime_undoes_is_named_so() -> None:
    reason = why(FLOAT, "conv", "w8a8", "int8", "", RULE, FIT)
    assert reason.text == "INT8 in the file, but the runtime dequantises and runs Conv in float"


def test_layer_that_was_fused_away_is_named_so() -> None:
    gone = replace(FLOAT, kernels=(), held="")
    assert why(gone, "product", "", "int8", "", RULE, FIT).cause == "fused into another node"


@pytest.mark.parametrize(
    ("n_inputs", "n_outputs", "multiple", "wasted"),
    [
        (64, 64, 8, 0.0),
        (44, 48, 16, 1 - 44 / 48),
        (44, 44, 16, 1 - (44 / 48) ** 2),
        (3, 64, 8, 0.0),
        (64, 10, 16, 1 - 10 / 16),
        (None, None, 8, 0.0),
        (37, 41, 1, 0.0),
    ],
)
def test_alignment_wastes_what_pads_the_block(
    n_inputs: int | None, n_outputs: int | None, multiple: int, wasted: float
) -> None:
    assert alignment(n_inputs, n_outputs, multiple).wasted_fraction == pytest.approx(wasted)


def test_alignment_of_a_depthwise_layer_counts_its_channels_once() -> None:
    found = alignment(12, 12, 8, is_depthwise=True)
    assert found.wasted_fraction == pytest.approx(0.25)
    assert found.sentence == "unaligned: 12 of 16 output channels used"
