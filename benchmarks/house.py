"""The size of the house: lines, classes and functions of the package, and the walk from a command to an operator.

    python benchmarks/house.py            # what can be read off the files
    python benchmarks/house.py --walks    # also runs `transfer`, its dry run and `search --resume` on tiny digits

A walk is what runs between the command and the first `perform` of an operator: the files of which a function is called,
those of them that are handed the strategy in one of its forms (text, Strategy, Chain, Link, operator), and how often a
profile is built or changed, a word read and a chain checked.
"""

import argparse
import ast
import contextlib
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "nacdeploy"
PROFILE = """
width = 8
images = {n_train = 200, n_validation = 100, n_test = 60, input_size = 8}
train = {epochs = 1, batch_size = 50}
finetune = {epochs = 1, batch_size = 50}
settle = {n_images = 100, batch_size = 50}
quantize = {n_calibration = 100}
search = {alphabet = "PQ", budget = 2, max_drop = 99}
"""
STRATEGY = "P(ratio=0.1)Q"
FORMS = {"Strategy", "Chain", "Link"}
COUNTED = {
    "profiles built": {("profile", "from_mapping")},
    "profiles changed": {("profile", "override")},
    "words read": {("strategies/chain", "parse")},
    "targets parsed": {("exporters/targets", "parse")},
    "chains checked": {("strategies/steps/letters", "check")},
}


class _Arrived(BaseException):
    """The first `perform` is reached."""


class Walk:
    """What runs in the package until the first `perform`, as `sys.setprofile` tells it."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.on_the_way: set[str] = set()
        self.calls: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_name.startswith("<") or not code.co_filename.startswith(f"{PACKAGE}/"):
            return
        file = code.co_filename.removeprefix(f"{PACKAGE}/").removesuffix(".py").removesuffix("/__init__")
        self.calls[file, code.co_name] += 1
        if not code.co_flags & 0x2:  # the body of a class, not of a function
            return
        self.files.add(file)
        given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        if any(_is_strategy(value) for value in given):
            self.on_the_way.add(file)
        if code.co_name == "perform" and file.startswith("strategies/operators/"):
            raise _Arrived

    def counts(self) -> dict[str, int]:
        """The figures of the walk."""
        called = {what: sum(self.calls[key] for key in keys) for what, keys in COUNTED.items()}
        return {"files": len(self.files), "files with the strategy": len(self.on_the_way), **called}


def _is_strategy(value: Any) -> bool:
    kind = type(value)
    return value == STRATEGY if kind is str else kind.__name__ in FORMS or ".operators." in kind.__module__


def sizes() -> dict[str, int]:
    """Files, lines, lines without blanks, and what a reader meets: top-level classes and public functions."""
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    nodes = [node for text in texts for node in ast.parse(text).body]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        "files": len(texts),
        "lines": sum(len(text.splitlines()) for text in texts),
        "lines that are not blank": sum(bool(line.strip()) for text in texts for line in text.splitlines()),
        "classes": len(classes),
        "public functions": sum(not name.startswith("_") for name in functions),
        "classes and public functions (979 when issue 12 was filed)": len(classes)
        + sum(not name.startswith("_") for name in functions),
    }


def walked(*arguments: str) -> Walk:
    """The walk of one command in the current folder."""
    sys.path.insert(0, str(PACKAGE.parent))
    from nacdeploy.cli.main import cli

    walk = Walk()
    sys.setprofile(walk)
    try:
        with contextlib.redirect_stderr(open(os.devnull, "w", encoding="utf-8")):  # noqa: PTH123
            cli.main([*arguments, "--profile", "tiny.toml"] if "--resume" not in arguments else [*arguments])
    except _Arrived:
        return walk
    finally:
        sys.setprofile(None)
    raise AssertionError(f"{arguments} performs nothing")


def walks() -> dict[str, Walk]:
    """The walks of three commands; the baseline is trained by the first."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("tiny.toml").write_text(PROFILE, encoding="utf-8")
        search = ("search", "--no-wandb", "--out", "run")
        with contextlib.suppress(AssertionError):
            walked(*search)
        return {
            "transfer": walked("transfer", "--strategy", STRATEGY, "--no-wandb"),
            "transfer --dry-run": walked("transfer", "--strategy", STRATEGY, "--dry-run", "--no-wandb"),
            "search --resume": walked("search", "--resume", "run", "--no-wandb"),
        }


def main() -> None:
    """Print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--walks", action="store_true", help="Also run three commands.")
    parser.add_argument("--files", action="store_true", help="Also name the files that are handed the strategy.")
    asked = parser.parse_args()
    for what, n in sizes().items():
        print(f"{n:7d} {what}")
    for command, walk in walks().items() if asked.walks else ():
        print(f"{command}: {', '.join(f'{n} {what}' for what, n in walk.counts().items())}")
        if asked.files:
            print("  " + " ".join(sorted(walk.on_the_way)))


if __name__ == "__main__":
    main()
