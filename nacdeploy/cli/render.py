"""The common look of commands: tables on stdout, bars and lines on stderr; plain without a terminal.

The prints of a single command stand with that command.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from nacdeploy.cli import document

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

_MEMORY_S = 1800  # what the time left is estimated from: chains take from a second to minutes


@cache
def _stderr() -> "Console":
    """Return the console of lines and bars; rich is imported when something is shown, so that --help stays quick."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class RichBar:
    """One bar with the time left, and a line below it."""

    def __init__(self, progress: "Progress", task: "TaskID", below: "Text") -> None:
        self._progress, self._task, self._below = progress, task, below

    def update(self, n_done: int, total: int, note: str = "") -> None:
        self._progress.update(self._task, completed=n_done, total=total)
        self._below.plain = note


class RichProgress:
    """Progress on stderr: lines, and bars that are gone when their job is done or nobody watches."""

    def say(self, line: str) -> None:
        _stderr().print(line, soft_wrap=True, markup=False)

    @contextmanager
    def bar(self, title: str) -> Iterator[RichBar]:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.text import Text

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=_stderr(), speed_estimate_period=_MEMORY_S)
        bar = RichBar(progress, progress.add_task(title, total=1), below := Text(no_wrap=True, overflow="ellipsis"))
        if not _stderr().is_terminal:
            yield bar
            return
        with Live(Group(progress, below), console=_stderr(), transient=True):
            yield bar


def print_json(record: Any) -> None:
    """Print one JSON document on stdout."""
    from nacdeploy.base import records

    plain = records.to_data(record) if hasattr(record, "__dataclass_fields__") else record
    document.write(json.dumps(plain, indent=1))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout, as wide as its content where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a pipe has no width: nothing is folded for it
        console.width = 200
    console.print(table)


def print_result(result: Any) -> None:
    """Print a result as a row of NAC's table, with the control row and where things lie."""
    from nacdeploy.metrics import cell, number

    scores, figures, metric = result.scores, result.figures, result.scores.scored_by
    hours = f"{result.seconds / 3600:.3f}"
    rows = [
        ["FP32 baseline", cell(metric, scores.baseline), "", "1.00", "1.00", "1.00", "1.00", ""],
        [
            f"control: FP32, {scores.n_control_epochs} epochs more",
            cell(metric, scores.control),
            "",
            "1.00",
            "1.00",
            "1.00",
            "1.00",
            "",
        ],
        [
            result.answer or "(empty)",
            cell(metric, scores.compressed),
            number(metric, scores.drop),
            f"{figures.nac_bitops_ratio:.2f}",
            f"{figures.nac_memory_ratio:.2f}",
            f"{figures.bitops_ratio:.2f}",
            f"{figures.bytes_ratio:.2f}",
            hours,
        ],
    ]
    title = f"{result.model} on {result.data} (test split, {scores.n_images} images)"
    column = metric.column[:1].upper() + metric.column[1:]
    ratios = ["NAC BitOpsCR", "NAC MemCR", "BitOps ratio", "bytes ratio"]
    columns = ["Trajectory", column, f"{column} loss", *ratios, "hours"]
    print_table(title, columns, rows)
    for refusal in result.skipped:
        click.echo(f"skipped {refusal.link} at position {refusal.position}: {refusal.reason}")
    if result.n_evaluations:
        click.echo(f"{result.n_evaluations} chains evaluated, {result.n_trainings} trainings")
    if result.front:
        _print_front(result)
    if result.candidates:
        _print_candidates(result)
    click.echo(f"checkpoint: {result.checkpoint}")


def _print_candidates(result: Any) -> None:
    """Print the networks within the time: the chain's, and a smaller dense one; the answer is marked."""
    from nacdeploy.metrics import cell

    metric = result.scores.scored_by
    rows = [
        [
            f"{each.name}{' *' if each.is_answer else ''}",
            cell(metric, each.score),
            f"{each.p50_ms:.4g}",
            str(each.n_epochs),
        ]
        for each in result.candidates
    ]
    title = "within the time; * is the answer"
    print_table(title, ["network", f"{metric.column} on validation", "ms", "epochs in all"], rows)


def _print_front(result: Any) -> None:
    """Print the Pareto front of a search, counted and (where speed matters) timed in full, the answer marked."""
    from nacdeploy.metrics import cell, number

    metric = result.scores.scored_by
    is_dense = any(each.is_answer and each.is_dense for each in result.candidates)  # which may have a member's chain
    rows = [
        [
            str(member.number),
            member.chain + (" *" if member.chain == result.chain and not is_dense else ""),
            cell(metric, member.figures.score),
            number(metric, member.drop),
            _speed_cell(member.figures),
            f"{member.figures.bitops_ratio:.2f}",
            f"{member.figures.bytes_ratio:.2f}",
        ]
        for member in result.front
    ]
    columns = ["", "chain", f"{metric.column} on validation", "loss", "faster (95 %)", "BitOps ratio", "bytes ratio"]
    print_table(f"Pareto front; --resume {result.folder} --pick N answers with another member", columns, rows)


def _speed_cell(figures: Any) -> str:
    if figures.speed_ratio is None:
        return ""
    between = "" if figures.speed_low is None else f" ({figures.speed_low:.2f}-{figures.speed_high:.2f})"
    return f"{figures.speed_ratio:.2f}x{between}"


def percent(fraction: float, n_digits: int = 2) -> str:
    """Return a fraction in per cent, without the sign."""
    return f"{100 * fraction:.{n_digits}f}"
