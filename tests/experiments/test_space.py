"""The space of a config_list: names, expansion, filling. The expected values are those of Auptimizer 2's translation of
a config_list, where that was right (entries that share a nested table got the last value proposed)."""

import copy
from typing import Any

import pytest

from nacdeploy.experiments.config import space
from nacdeploy.experiments.config.space import Space

RANGE = {"range": [0.1, 0.9], "type": "float"}
NESTED = [{"quant_bits": {"weight": {"range": [4, 8], "type": "int"}}, "op_names": ["a", "b"]}]


def test_expand_gives_each_named_layer_an_entry() -> None:
    entries = space.expand([{"sparsity": RANGE, "op_names": ["conv1", "conv2"], "op_types": ["default"]}])
    assert entries == [
        {"op_names": ["conv1"], "sparsity": RANGE, "op_types": ["default"]},
        {"op_names": ["conv2"], "sparsity": RANGE, "op_types": ["default"]},
    ]


def test_expand_keeps_an_entry_whole_when_asked_to() -> None:
    entry = {"sparsity": RANGE, "op_names": ["conv1", "conv2"], "expand_op_names": False}
    assert space.expand([entry]) == [{"sparsity": RANGE, "op_names": ["conv1", "conv2"]}]


def test_parameters_are_named_by_expanded_index_and_key() -> None:
    config = [{"sparsity": RANGE, "op_types": ["Conv2d"]}, *NESTED, {"exclude": True, "op_names": ["c"]}]
    found = space.spaces(space.expand(config))
    assert [row.name for row in found] == ["0.sparsity", "1.quant_bits.weight", "2.quant_bits.weight"]


def test_nested_values_are_separate_per_layer() -> None:
    entries = space.expand(NESTED)
    filled = space.job_config_list(entries, {"0.quant_bits.weight": 4, "1.quant_bits.weight": 7})
    assert [entry["quant_bits"] for entry in filled] == [{"weight": 4}, {"weight": 7}]


def test_proposal_is_never_written_back_into_the_space() -> None:
    entries = space.expand(NESTED)
    before = copy.deepcopy(entries)
    filled = space.job_config_list(entries, {"0.quant_bits.weight": 4, "1.quant_bits.weight": 7})
    filled[0]["quant_bits"]["weight"] = 99
    assert entries == before


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (Space("a", "float", (0.1, 0.9), interval=0.2), (0.1, 0.3, 0.5, 0.7, 0.9)),
        (Space("a", "float", (0.0, 1.0), n=3), (0.0, 0.5, 1.0)),
        (Space("a", "float", (0.2, 0.2), n=1), (0.2,)),
        (Space("a", "int", (4, 8)), (4, 5, 6, 7, 8)),
        (Space("a", "int", (4, 8), interval=2), (4, 6, 8)),
        (Space("a", "choice", ("x", [1], None)), ("x", [1], None)),
        (Space("a", "float", (0.1, 0.9)), None),
    ],
)
def test_values_of_a_space(made: Space, values: tuple[Any, ...] | None) -> None:
    if made.kind == "choice":
        assert made.range == values
    else:
        assert made.values() == values


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"range": [0.9, 0.1], "type": "float"}, "[lowest, highest]"),
        ({"range": [0.1, 0.5], "type": "flaot"}, "none of float, int, choice"),
        ({"type": "float"}, "range"),
        ({"range": [1, 2.5], "type": "int"}, "int numbers"),
        ({"range": [0.1, 0.5], "type": "float", "interval": 0}, "above 0"),
        ({"range": [0.1, 0.5], "type": "float", "interval": 0.1, "n": 2}, "not both"),
        ({"range": [], "type": "choice"}, "no list of values"),
        ({"range": [0.1, 0.5], "type": "float", "intervall": 0.1}, "did you mean 'interval'"),
        ({"range": [0.1, 1.5], "type": "float"}, "too large"),
    ],
)
def test_malformed_space_is_explained(given: dict[str, Any], said: str) -> None:
    found = space.problems("here", given, lambda value: "too large" if value > 1 else None)
    assert len(found) == 1
    assert said in found[0]
