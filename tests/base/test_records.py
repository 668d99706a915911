"""Records: exact round trips, and files that are written whole or not at all."""

import math
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError


@dataclass(frozen=True)
class Inner:
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    name: str
    share: float
    inner: tuple[Inner, ...] = ()
    note: str | None = None


RECORDS = st.builds(
    Record,
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.builds(Inner, st.lists(st.integers()).map(tuple))).map(tuple),
    st.none() | st.text(),
)


@given(RECORDS)
def test_from_data_inverts_to_data(record: Record) -> None:
    assert records.from_data(Record, records.to_data(record)) == record


def test_written_record_reads_back(tmp_path: Path) -> None:
    record = Record("x", 0.1, (Inner((1, 2)),))
    records.write_json(tmp_path / "deep" / "r.json", record)
    assert records.from_data(Record, records.read_json(tmp_path / "deep" / "r.json")) == record


def test_from_data_names_the_fields_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"strategy\.json is not a valid Record: name: .*; share: "):
        records.from_data(Record, {"share": "much"}, where="strategy.json")


def test_read_json_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(UsageError, match=r"half\.json is not readable JSON"):
        records.read_json(tmp_path / "half.json")
    with pytest.raises(UsageError, match=r"none\.json does not exist"):
        records.read_json(tmp_path / "none.json")


def test_read_json_leaves_a_byte_order_mark_out(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf[1, 2]")
    assert records.read_json(path) == [1, 2]


def test_write_text_is_readable_by_others_and_leaves_no_temporary(tmp_path: Path) -> None:
    records.write_text(tmp_path / "a.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_write_json_keeps_the_old_file_when_data_is_not_json(tmp_path: Path) -> None:
    records.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        records.write_json(tmp_path / "a.json", {"a": math.nan})
    assert records.read_json(tmp_path / "a.json") == {"a": 1}


def test_write_text_is_one_line_when_the_parent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NacdeployError, match="cannot write"):
        records.write_text(tmp_path / "file" / "a.txt", "text")


def test_hashes_follow_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert records.sha256_file(tmp_path / "a").startswith("ba7816bf")
    assert records.sha256_data({"a": 1, "b": 2}) == records.sha256_data({"b": 2, "a": 1})
    assert records.sha256_data({"a": 1}) != records.sha256_data({"a": 2})
