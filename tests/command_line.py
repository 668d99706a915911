"""The command line as the tests use it: in this process, in a folder with a profile of seconds."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from nacdeploy.cli.main import main

TINY = """
target = "ort"
model = "resnet8"
width = 8
data = "digits"

[images]
n_train = 200
n_validation = 100
n_test = 60
input_size = 8

[train]
epochs = 3
learning_rate = 0.05
batch_size = 50

[finetune]
epochs = 1
learning_rate = 0.01
batch_size = 50

[prune]
ratio = 0.1
multiple = 2

[quantize]
grid = "ort"
n_calibration = 100

[exits]
n_exits = 1

[exits.recipe]
epochs = 1

[settle]
n_images = 100
batch_size = 50

[search]
alphabet = "FPQ"
budget = 4
max_drop = 30.0

[search.rules]
finetune_due = 5.0

[export]
compute_capabilities = ["SM86"]
guard = false
exits = "whole"
min_agreement = 0.5
min_snr_db = 5.0
n_parity = 50

[bench]
n_rounds = 3
round_ms = 1.0
"""
SETTINGS = 'profile = "tiny.toml"\nwandb = false\n'


@dataclass(frozen=True)
class Outcome:
    """What a command left on its streams, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document and nothing else."""
        return json.loads(self.out)


def run(*arguments: object) -> Outcome:
    """`nacdeploy ARGUMENTS` in this process, in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["nacdeploy", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("the command line always ends with an exit code")


def succeed(*arguments: object) -> Outcome:
    """`run`, which must end well."""
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def lay_out(folder: Path, profile: str = TINY, settings: str = SETTINGS) -> Path:
    """An empty folder with the tiny profile as its default."""
    (folder / "tiny.toml").write_text(profile)
    (folder / "nacdeploy.toml").write_text(settings)
    return folder


def change(table: str, **values: object) -> None:
    """Change keys of one table of the tiny.toml in the current folder."""
    head, title, tail = Path("tiny.toml").read_text().partition(f"[{table}]\n")
    assert title
    lines, blank, rest = tail.partition("\n\n")
    kept = [line for line in lines.splitlines() if line.split(" = ")[0] not in values]
    added = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    Path("tiny.toml").write_text(head + title + "\n".join([*kept, *added]) + (blank or "\n") + rest)


def files() -> set[Path]:
    """Every file and folder below the current one."""
    return set(Path().rglob("*"))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a search's journal without what a clock has a share in."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines[1:]]


def refused_line(outcome: Outcome) -> str:
    """The one line of an error, the last of stderr."""
    *_, line = outcome.err.splitlines()
    assert line.startswith("error: "), outcome.err
    assert "Traceback" not in outcome.err
    return line
