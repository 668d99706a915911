"""nacdeploy search"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render
from nacdeploy.sessions.options import TASK, TRACKERS


@click.command("search")
@options.task_options
@options.out
@options.search_options
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that was stopped.")
@click.option("--fork", is_flag=True, help="With --resume: a new run that takes over what still holds.")
@click.option("--pick", type=click.IntRange(min=1), metavar="N", help="With --resume: answer with front member N.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Chains evaluated at once, by Ray.")
@click.option("--ray", metavar="ADDRESS", help="Ray cluster that evaluates them: host:port or auto.")
@options.trackers
@options.as_json
def command(
    out: Path | None,
    resume: Path | None,
    fork: bool,
    pick: int | None,
    workers: int | None,
    ray: str | None,
    as_json: bool,
    **shared: Any,
) -> None:
    from nacdeploy import api

    wanted = {"out": out, **shared, "experience": shared["experience"] or None}
    if resume is not None:
        wanted = _typed(wanted, fork, resume)
    how: dict[str, Any] = {"fork": fork, "pick": pick, "workers": workers, "ray": ray}
    result = api.search(resume=resume, progress=render.RichProgress(), **how, **wanted)
    render.print_json(result) if as_json else render.print_result(result)


def _typed(wanted: dict[str, Any], fork: bool, resume: Path) -> dict[str, Any]:
    """Return the options typed beside --resume: a run continues with its own settings, whatever nacdeploy.toml says
    now.

    The file of its own network may be named, so that it may run.
    """
    typed = [name for name in ("out", *TASK) if options.on_command_line(name)]
    named = [name for name in ("model", "task") if options.is_model_of(resume, wanted[name])]
    if not fork:
        typed = [name for name in typed if name not in named]
    if typed and not fork:
        raise click.UsageError(
            f"--resume goes on with the run's own settings: leave --{typed[0].replace('_', '-')} away, or begin a new "
            "run with --fork."
        )
    kept = (*TRACKERS, *named)
    return {name: value for name, value in wanted.items() if name in kept or options.on_command_line(name)}
