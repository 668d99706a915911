"""nacdeploy compress"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render

FIXED = ("out", "automatic", "model", "data", "width", "checkpoint", "profile", "seed")


@click.command("compress")
@click.argument("experiment", metavar="EXPERIMENT.json", required=False, type=click.Path(path_type=Path))
@click.option("--automatic", is_flag=True, help="Search over the ranges of the configuration.")
@options.task_options
@options.out
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that was stopped.")
@options.wandb
@options.as_json
def command(
    experiment: Path | None,
    automatic: bool,
    out: Path | None,
    resume: Path | None,
    as_json: bool,
    **shared: Any,
) -> None:
    """Run a compression experiment, one-time or automatic; leaves a checkpoint, or what its script exports."""
    from nacdeploy import api

    if resume is not None:
        typed = [name for name in ("experiment", *FIXED) if options.on_command_line(name)]
        if typed:
            raise click.UsageError(f"--resume goes on with the run's own settings: leave {_spoken(typed[0])} away.")
        out = None
    done = api.compress(
        experiment=experiment,
        automatic=automatic,
        resume=resume,
        out=out,
        progress=render.RichProgress(),
        **shared,
    )
    render.print_json(done) if as_json else render.print_experiment(done)


def _spoken(name: str) -> str:
    return "EXPERIMENT.json" if name == "experiment" else f"--{name}"
