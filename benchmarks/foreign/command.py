"""The command line of the coverage benchmark: what is run, in which order, and where the rows go."""

import argparse
import fnmatch
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.foreign import listing, rows
from benchmarks.foreign.listing import Entry
from benchmarks.foreign.watching import ROOT, Limits, columns_of

OUT = ROOT / "coverage-run"


def main() -> None:
    """Run what is not done yet, or write the list or the report."""
    options = _parser().parse_args()
    if options.write_list:
        listing.write(_say)
    elif options.report:
        from benchmarks.foreign import report

        report.write(options.out)
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    """The columns that are asked for of the networks that are, without those that have a row already."""
    done = {} if options.again else rows.read(options.out)
    asked = {entry: _left(entry, options.columns, done) for entry in chosen(options)}
    waiting = {entry: columns for entry, columns in asked.items() if columns}
    _say(f"{len(waiting)} of {len(asked)} networks to run, rows in {options.out / rows.RESULTS}")
    if not waiting:
        return
    grid, lock, commit = _grid(), threading.Lock(), _commit()
    limits = Limits(options.limit_s, options.column_limit_s, options.limit_gib)

    def one(entry: Entry) -> None:
        for row in columns_of(entry, waiting[entry], grid, limits, options.out / "log.txt"):
            with lock:
                rows.append(options.out, [replace(row, commit=commit, grid=grid)])
                _say(_told(row))

    options.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, waiting))


def chosen(options: argparse.Namespace) -> list[Entry]:
    """The networks of the list by library and patterns, of these every k-th where a sample is asked for.

    Raises:
        SystemExit: a pattern names none.
    """
    known = listing.read().networks
    found = [e for e in known if options.library in (None, e.library)]
    if options.only:
        for pattern in options.only:
            if not any(_matches(entry, pattern) for entry in found):
                raise SystemExit(f"--only {pattern}: no network of {listing.FILE.name} has that name")
        found = [e for e in found if any(_matches(e, pattern) for pattern in options.only)]
    if options.sample and options.sample < len(found):
        return [found[i * len(found) // options.sample] for i in range(options.sample)]
    return found


def _matches(entry: Entry, pattern: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for name in (entry.name, entry.model))


def _left(entry: Entry, columns: Sequence[str], done: dict[tuple[str, str], rows.Row]) -> list[str]:
    return [column for column in columns if (entry.model, column) not in done]


def _told(row: rows.Row) -> str:
    figures = ", ".join(f"{key} {value:.4g}" for key, value in row.figures.items())
    told = f"{row.model} {row.column}: {row.outcome}, {row.seconds:.1f} s, {row.peak_mib:.0f} MiB"
    return f"{told}, {figures}; {row.reason}".rstrip("; ")


def _grid() -> str:
    """The grid that ONNX Runtime's kernels here compute exactly, as the commands of the package find it."""
    from nacdeploy.exporters.targets.ort.probe import best_grid

    return best_grid()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/coverage.py", description=__doc__)
    parser.add_argument("--write-list", action="store_true", help="make benchmarks/coverage_list.json anew")
    parser.add_argument("--report", action="store_true", help="write docs/coverage.md from the rows that there are")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of rows (default: coverage-run)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names or patterns, such as 'resnet*' or 'timm:vit*'")
    parser.add_argument("--library", choices=("torchvision", "timm"))
    parser.add_argument("--columns", nargs="+", choices=rows.COLUMNS, default=rows.COLUMNS, metavar="COLUMN")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many networks, spread over the list")
    parser.add_argument("--again", action="store_true", help="run what has a row already, too")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time (default: 1)")
    parser.add_argument("--limit-s", type=float, default=1200.0, help="of one network in all (default: 1200)")
    parser.add_argument("--column-limit-s", type=float, default=400.0, help="of one of its columns (default: 400)")
    parser.add_argument("--limit-gib", type=float, default=12.0, help="of one network (default: 12)")
    return parser
