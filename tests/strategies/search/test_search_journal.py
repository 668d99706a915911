from pathlib import Path

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation, Journal, failed
from nacdeploy.strategies.search.objective import Figures

FIGURES = Figures(0.1 + 0.2, 0.98, 16.0, 1.3, 4.0, 16.0, 4.0)
ROWS = [
    Evaluation("", "s0", FIGURES),
    Evaluation("Q", "s1", FIGURES, {"Q": "the ladder ends at w8a8"}, trained=True, seconds=1.5),
    failed(Chain.parse("QP"), "the loss is not a number", 2.0),
]
FINGERPRINT = {"seed": 0, "ladder": ("w8a8",), "profile": "demo"}


def write(path: Path) -> None:
    with Journal.open(path, FINGERPRINT) as journal:
        for row in ROWS:
            journal.append(row)


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "journal.jsonl")
    with Journal.open(tmp_path / "deep" / "journal.jsonl", FINGERPRINT) as journal:
        assert journal.evaluations == ROWS


def test_a_torn_line_is_cut_off_wherever_the_writing_stopped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    whole = path.read_bytes()
    for n_bytes in range(len(whole) + 1):
        path.write_bytes(whole[:n_bytes])
        n_rows = max(0, whole[:n_bytes].count(b"\n") - 1)
        with Journal.open(path, FINGERPRINT) as journal:
            assert journal.evaluations == ROWS[:n_rows]
            for row in ROWS[n_rows:]:
                journal.append(row)
        assert path.read_bytes() == whole


def test_a_last_line_of_zeros_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    path.write_bytes(path.read_bytes() + b"\0" * 40)
    with Journal.open(path, FINGERPRINT) as journal:
        assert journal.evaluations == ROWS


def test_another_run_is_refused_by_the_keys_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"profile was 'demo' and is 'edge', seed was 0 and is 1;"):
        Journal.open(path, {**FINGERPRINT, "seed": 1, "profile": "edge"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ['{"a": 1}\n', "[1]\n", '{"schema": 99, "fingerprint": {}}\n', "x\ny\n"])
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"is not a journal of schema 1|is not readable JSON"):
        Journal.open(path, {})
    assert path.read_text() == content


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "garbage\n", *lines[2:]]))
    with pytest.raises(UsageError, match="line 2 is not readable JSON"):
        Journal.open(path, FINGERPRINT)
