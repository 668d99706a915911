"""nacdeploy search"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render

FIXED = ("out", "model", "data", "width", "checkpoint", "profile", "seed")


@click.command("search")
@options.task_options
@options.out
@click.option("--searcher", metavar="X", help="surrogate, beam, dqn or random.")
@click.option("--budget", type=click.IntRange(min=1), help="Chains to evaluate.")
@click.option("--max-drop", type=click.FloatRange(min=0), metavar="POINTS", help="Accuracy that may be lost.")
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that was stopped.")
@click.option(
    "--experience", metavar="RUN", multiple=True, help="An earlier search whose journal teaches what letters do."
)
@options.wandb
@options.as_json
def command(
    out: Path | None,
    searcher: str | None,
    budget: int | None,
    max_drop: float | None,
    resume: Path | None,
    experience: tuple[str, ...],
    as_json: bool,
    **shared: Any,
) -> None:
    """Search for the best chain; leaves its checkpoint and strategy.json."""
    from nacdeploy import api

    wanted: dict[str, Any] = {"out": out, "searcher": searcher, "budget": budget, "max_drop": max_drop}
    wanted["experience"] = experience or None
    if resume is not None:
        wanted = _typed(wanted)
    result = api.search(resume=resume, progress=render.RichProgress(), **wanted, **shared)
    render.print_json(result) if as_json else render.print_result(result)


def _typed(wanted: dict[str, Any]) -> dict[str, Any]:
    """What was typed beside --resume: a run goes on with its own settings, whatever nacdeploy.toml says now."""
    typed = [name for name in FIXED if options.on_command_line(name)]
    if typed:
        raise click.UsageError(f"--resume goes on with the run's own settings: leave --{typed[0]} away.")
    return {name: value for name, value in wanted.items() if options.on_command_line(name)}
