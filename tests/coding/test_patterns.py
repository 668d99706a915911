"""Patterns from elsewhere end: repeats within repeats are refused, and many side by side are counted."""

import re
from pathlib import Path

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.coding import patterns, rule_files


@pytest.mark.parametrize("text", ["(a+)+", "(.*)*x", r"(\w+\.?){2,}!", "((a|b*)c)*", "(?:a+?)+?"])
def test_repeat_within_a_repeat_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a repeat within a repeat"):
        patterns.compiled(text)


@pytest.mark.parametrize("text", ["conv1", r"features\.[0-9]+\..*\.conv.*", "(a|b)c?", r"(layer\d){1,3}\.*", "[a+*]+"])
def test_usual_pattern_is_compiled(text: str) -> None:
    assert patterns.compiled(text).pattern == text
    assert patterns.n_steps(patterns.compiled(text)) < 1e6


def test_steps_grow_with_the_repeats_side_by_side() -> None:
    counts = [patterns.n_steps(re.compile(".*" * k + "x")) for k in range(4)]
    assert counts == [1, 61, 1891, 39711]


def test_rule_file_whose_patterns_take_too_long_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rules.txt"
    file.write_text(".*" * 20 + "x 0.5\n")
    with pytest.raises(UsageError, match="steps to match one name, more than the limit pattern_steps"):
        rule_files.read(file)
    file.write_text("(a+)+$ 0.5\nconv.* 0.25\n")
    found = rule_files.read(file)
    assert "line 1: a repeat within a repeat may match without end" in found.problems[0]
    assert len(found.lines) == 1
