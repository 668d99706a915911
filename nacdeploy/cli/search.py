"""nacdeploy search"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("search")
@options.task_options
@options.out
@click.option("--searcher", metavar="X", help="beam or random.")
@click.option("--budget", type=click.IntRange(min=1), help="Chains to evaluate.")
@click.option("--max-drop", type=click.FloatRange(min=0), metavar="POINTS", help="Accuracy that may be lost.")
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that was stopped.")
@options.wandb
@options.as_json
def command(
    out: Path | None,
    searcher: str | None,
    budget: int | None,
    max_drop: float | None,
    resume: Path | None,
    as_json: bool,
    **shared: Any,
) -> None:
    """Search for the best chain; leaves its checkpoint and strategy.json."""
    from nacdeploy import api

    if resume is not None and out is not None:
        raise click.UsageError("--resume goes on in its own folder: leave --out away")
    result = api.search(
        out=out,
        resume=resume,
        searcher=searcher,
        budget=budget,
        max_drop=max_drop,
        progress=render.RichProgress(),
        **shared,
    )
    render.print_json(result) if as_json else render.print_result(result)
