"""nacdeploy search"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render

FIXED = ("out", "model", "data", "width", "normalize", "classes", "checkpoint", "new_head", "profile", "seed")


@click.command("search")
@options.task_options
@options.out
@click.option("--searcher", metavar="X", help="surrogate, beam, dqn or random.")
@click.option("--budget", type=click.IntRange(min=1), help="Chains to evaluate.")
@click.option("--max-trainings", type=click.IntRange(min=1), metavar="N", help="Trainings after which it ends.")
@click.option(
    "--max-drop", type=click.FloatRange(min=0), metavar="POINTS", help="What may be lost, in the metric's unit."
)
@click.option("--objective", metavar="X", help="budget, latency, pareto or nac.")
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that was stopped.")
@click.option("--cache", metavar="LOCATION", help="Shared memory of searches: a folder or an fsspec URL (s3://...).")
@click.option("--fork", is_flag=True, help="With --resume: a new run that takes over what still holds.")
@click.option("--pick", type=click.IntRange(min=1), metavar="N", help="With --resume: answer with front member N.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Chains evaluated at once, by Ray.")
@click.option("--ray", metavar="ADDRESS", help="Ray cluster that evaluates them: host:port or auto.")
@click.option(
    "--experience", metavar="RUN", multiple=True, help="An earlier search whose journal teaches what letters do."
)
@options.wandb
@options.as_json
def command(
    out: Path | None,
    searcher: str | None,
    budget: int | None,
    max_trainings: int | None,
    max_drop: float | None,
    objective: str | None,
    resume: Path | None,
    cache: str | None,
    fork: bool,
    pick: int | None,
    workers: int | None,
    ray: str | None,
    experience: tuple[str, ...],
    as_json: bool,
    **shared: Any,
) -> None:
    """Search for the best chain; leaves its checkpoint and strategy.json."""
    from nacdeploy import api

    wanted: dict[str, Any] = {
        "cache": cache,
        "out": out,
        "searcher": searcher,
        "budget": budget,
        "max_trainings": max_trainings,
        "max_drop": max_drop,
        "objective": objective,
        "experience": experience or None,
        **shared,
    }
    if resume is not None:
        wanted = _typed(wanted, fork, resume)
    how: dict[str, Any] = {"fork": fork, "pick": pick, "workers": workers, "ray": ray}
    result = api.search(resume=resume, progress=render.RichProgress(), **how, **wanted)
    render.print_json(result) if as_json else render.print_result(result)


def _typed(wanted: dict[str, Any], fork: bool, resume: Path) -> dict[str, Any]:
    """What was typed beside --resume: a run goes on with its own settings, whatever nacdeploy.toml says now. The file
    of its own network may be named, so that it may run."""
    typed = [name for name in FIXED if options.on_command_line(name)]
    if not fork:
        typed = [name for name in typed if name != "model" or not options.is_model_of(resume, wanted["model"])]
    if typed and not fork:
        raise click.UsageError(
            f"--resume goes on with the run's own settings: leave --{typed[0].replace('_', '-')} away, or begin a new "
            "run with --fork."
        )
    named = options.is_model_of(resume, wanted["model"])
    kept = ("wandb", *(["model"] if named else []))
    return {name: value for name, value in wanted.items() if name in kept or options.on_command_line(name)}
