"""The door of files from elsewhere: regular files, within limits, of plain data."""

import json
import os
from pathlib import Path

import pytest

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "folder"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is no regular file"):
        doors.read_bytes(tmp_path / name)
    with pytest.raises(UsageError, match="is no regular file"):
        records.read_json(tmp_path / name)


def test_file_above_its_limit_is_refused_until_the_limit_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.toml"
    path.write_text("#" * (600 * 1024))
    with pytest.raises(UsageError, match=r"text_kib=512 of files; if it is yours.*NACDEPLOY_LIMITS=text_kib=N"):
        doors.read_text(path)
    monkeypatch.setenv(doors.VARIABLE, "text_kib=1024")
    assert len(doors.read_text(path)) == 600 * 1024


@pytest.mark.parametrize(("text", "said"), [("recrod_mib=3", "did you mean 'record_mib'"), ("depth=x", "is no limit")])
def test_wrong_limit_is_named(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(doors.VARIABLE, text)
    with pytest.raises(UsageError, match=said):
        doors.limits()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 70 + "]" * 70, "nested too deeply"),
        ("NaN", "no finite number"),
        ("[1e999]", "no finite number"),
        ("[9223372036854775808]", "integer of 64 bits"),
        (r'{"a": "\u0000"}', "NUL"),
        (r'{"\ud800": 1}', "half a character"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("[" + "1," * 2_100_000 + "1]", "too many values"),
    ],
    ids=range(9),
)
def test_what_is_no_plain_data_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        doors.json_of(text, "x")


def test_plain_data_are_what_json_makes_of_them() -> None:
    text = json.dumps({"a": [1, -(2**63), 1.5e308, None, True, "ü"], "b": {}})
    assert doors.json_of(text, "x") == json.loads(text)


def test_references_that_grow_without_end_are_counted() -> None:
    data: list[object] = ["x"]
    for _ in range(40):  # as YAML's anchors make them: small in the file, and without end when looked through
        data = [data, data]
    with pytest.raises(UsageError, match="too many values"):
        doors.check_plain(data, "x")
