"""Rule files of the older grammar: the first full match wins, and nothing is dropped in silence."""

from pathlib import Path

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.coding import rule_files
from nacdeploy.coding.codec import Rule
from nacdeploy.coding.fixed_point import FixedPoint

TEXT = """
# a comment
conv1\\.weight      element   0.3,0.5
conv.*\\.weight     element   0.6,0.8,0.9
fc1                kernel    0.5
conv1.*            k-means   5  k-means++
fc.*               fixed_point 6 1
fc2                linear    4  0
conv2              0.25
layer4.*           element
fc3                kmeans    4  somewhere
[                  0.5
conv9              1.5
fc.*               vanilla   0 0 4
conv.*             huffman   0 0 1
"""
LAYERS = ["conv1", "conv2", "fc1", "fc2"]


def test_read_leaves_a_byte_order_mark_out(tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_bytes(b"\xef\xbb\xbfconv1 element 0.5\r\n")
    assert rule_files.read(path) == rule_files.parse("conv1 element 0.5", str(path))


def test_first_match_of_a_whole_name_wins() -> None:
    found = rule_files.tables(rule_files.parse(TEXT), LAYERS)
    assert found.tables["code"]["layers"] == {
        "conv1": "kmeans:5:kmeans++",
        "fc1": "fixed_point:6:1",
        "fc2": "fixed_point:6:1",
    }
    assert found.tables["code"]["exclude"] == ["conv2"]
    assert found.tables["prune"] == {"ratios": {"conv2": 0.25}}


def test_patterns_of_two_kinds_become_one_table_rounded_up() -> None:
    assert rule_files.tables(rule_files.parse(TEXT), LAYERS).tables["sparsify"] == {
        "pattern": "element",
        "patterns": {"fc1": "kernel"},
        "ratios": {"conv1": 0.5, "conv2": 0.9, "fc1": 0.5},
        "rounding": "ceil",
        "exclude": ["fc2"],
    }


@pytest.mark.parametrize(
    ("n_times", "ratios"),
    [
        (2, {"conv1": [0.5, 0.5], "conv2": [0.8, 0.9], "fc1": [0.5, 0.5]}),
        (3, {"conv1": [0.3, 0.5, 0.5], "conv2": [0.6, 0.8, 0.9], "fc1": [0.5, 0.5, 0.5]}),
        (4, {"conv1": [0.3, 0.5, 0.5], "conv2": [0.6, 0.8, 0.9], "fc1": [0.5, 0.5, 0.5]}),
    ],
)
def test_each_s_of_a_chain_takes_a_stage(n_times: int, ratios: dict[str, list[float]]) -> None:
    found = rule_files.tables(rule_files.parse(TEXT), LAYERS, n_times)
    assert found.n_stages == 3
    assert found.tables["sparsify"]["ratios"] == ratios


def test_names_inside_data_parallel_are_matched() -> None:
    text = "module\\.conv1\\.weight element 0.4\nmodule\\.fc.weight k-means 4 k-means++\nmodule.conv1.* huffman 0 0 4"
    found = rule_files.parse(text)
    tables = rule_files.tables(found, ["conv1", "fc"]).tables
    assert tables["sparsify"]["ratios"] == {"conv1": 0.4}
    assert tables["code"]["layers"] == {"fc": "kmeans:4:kmeans++"}
    assert found.first("coding", "conv1.weight").value == Rule("huffman", 4)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line", ["conv1 0.4,0.5", "conv1 element 0.4, 0.5", "conv1  0.4 , 0.5", "conv1 element 0.4,0.5,"]
)
def test_shares_in_the_forms_of_all_versions_are_read(line: str) -> None:
    (found,) = rule_files.parse(line).lines
    assert (found.kind, found.value) == ("prune", ("element", (0.4, 0.5)))


def test_every_ignored_line_is_reported() -> None:
    ignored = rule_files.tables(rule_files.parse(TEXT, "old.rule"), LAYERS).ignored
    said = "\n".join(ignored)
    for part in (
        "line 8: 'fc2' is the first match of no layer",
        "line 10",
        "line 11: 'somewhere' is none of k-means++",
        "line 12: unterminated character set",
        "line 13: 1.5 is no share",
        "line 14: 'fc.*' is a coding rule",
        "line 15: run lengths of 1 bit",
    ):
        assert part in said, part
    assert len(ignored) == 7


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("fc.weight", Rule("fixed_point", 4, FixedPoint(6, 1))),
        ("conv.weight", Rule("huffman", 0)),
        ("conv.bias", Rule("plain", 3)),
    ],
)
def test_coding_rules_are_found_by_tensor(name: str, rule: Rule) -> None:
    found = rule_files.parse("fc.weight fixed_point 6 1 4\n.*weight huffman 0 0 0\n.* vanilla 0 0 3")
    assert found.first("coding", name).value == rule  # type: ignore[union-attr]


def test_wrong_number_of_columns_is_named() -> None:
    (problem,) = rule_files.parse("a b c d e f\nx 0.5").problems
    assert "line 1: 6 columns, where a rule has 2 (channel)" in problem


@pytest.mark.parametrize("text", ["", "one\n", "# only this\n"])
def test_file_without_a_rule_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.rule").write_text(text)
    with pytest.raises(UsageError, match="holds no rule"):
        rule_files.read(tmp_path / "x.rule")


@pytest.mark.parametrize("line", [
    "fc fixed_point 6 5000",
    "fc fixed_point 6 -5000",
    "fc.weight fixed_point 6 5000 4",
    "a{99999999999999999999} linear 4 0",
    f"{'(' * 3000}a{')' * 3000} linear 4 0",
])  # fmt: skip
def test_number_or_pattern_beyond_what_can_be_computed_is_an_ignored_line(line: str) -> None:
    found = rule_files.parse(f"{line}\nfc linear 4 0")
    assert [each.number for each in found.lines] == [2] and len(found.problems) == 1
