"""nacdeploy compress"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render
from nacdeploy.sessions.options import TASK


@click.command("compress")
@click.argument("experiment", metavar="EXPERIMENT.json", required=False, type=click.Path(path_type=Path))
@click.option("--automatic", is_flag=True, help="Search over the ranges of the configuration.")
@click.option(
    "--script", metavar="FILE", type=click.Path(path_type=Path), help="The script that the experiment names may run."
)
@options.task_options
@options.out
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that was stopped.")
@options.trackers
@options.as_json
def command(
    experiment: Path | None,
    automatic: bool,
    script: Path | None,
    out: Path | None,
    resume: Path | None,
    as_json: bool,
    **shared: Any,
) -> None:
    from nacdeploy import api
    from nacdeploy.commands import compress as commands

    if resume is not None:
        typed = [name for name in ("experiment", "out", "automatic", *TASK) if options.on_command_line(name)]
        named = [name for name in ("model", "task") if options.is_model_of(resume, shared[name])]
        typed = [name for name in typed if name not in named]
        if typed:
            raise click.UsageError(f"--resume goes on with the run's own settings: leave {_spoken(typed[0])} away.")
        out = None
    if script is not None and not options.on_command_line("script"):  # nacdeploy.toml names it for any experiment
        commands.name_script(script)
        script = None
    done = api.compress(
        experiment=experiment,
        automatic=automatic,
        script=script,
        resume=resume,
        out=out,
        progress=render.RichProgress(),
        **shared,
    )
    render.print_json(done) if as_json else _print_experiment(done)


def _spoken(name: str) -> str:
    return "EXPERIMENT.json" if name == "experiment" else f"--{name.replace('_', '-')}"


def _print_experiment(done: Any) -> None:
    """Print the jobs of an experiment, and the result of the best one."""
    names = list(dict.fromkeys(name for row in done.jobs for name in row.proposal))
    rows = [
        [
            f"{row.number}{' (best)' if row.number == done.best_job else ''}",
            *(f"{row.proposal.get(name, '')}" for name in names),
            "" if row.value is None else f"{row.value:.6g}",
            row.error or row.status,
        ]
        for row in done.jobs
    ]
    render.print_table(f"{done.name}: {done.compressor}", ["job", *names, "value", "status"], rows)
    if done.result is not None:
        render.print_result(done.result)
    elif done.best_folder:
        click.echo(f"model of job {done.best_job}: {done.best_folder}")
