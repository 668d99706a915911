"""nacdeploy transfer"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("transfer")
@click.option("--strategy", metavar="S", required=True, help="A word such as QPPF, a strategy.json, or catalog:NAME.")
@options.precision
@options.rules
@options.latency_table
@options.task_options
@options.out
@click.option(
    "--dry-run", is_flag=True, help="Say what every letter would do; train nothing but a baseline that is not kept."
)
@click.option("--skip-refused", is_flag=True, help="Leave out letters that do not apply, and report them.")
@click.option("--post-finetune", type=click.IntRange(min=1), metavar="EPOCHS", help="Train longer at the end.")
@click.option(
    "--forecast/--no-forecast", default=None, help="Tell what will come out before it trains, by a rehearsal."
)
@click.option("--adapt", is_flag=True, help="Change what P, S and D take so that the forecast holds a budget:")
@options.budget
@options.trackers
@options.as_json
def command(
    out: Path | None,
    dry_run: bool,
    post_finetune: int | None,
    forecast: bool | None,
    adapt: bool,
    max_drop: float | None,
    target_ms: float | None,
    speedup: float | None,
    as_json: bool,
    **given: Any,
) -> None:
    from nacdeploy import api
    from nacdeploy.base import records

    progress = render.RichProgress()
    budget = _budget(adapt, max_drop=max_drop, target_ms=target_ms, speedup=speedup)
    if dry_run and (forecast or budget):
        run = api.forecast(progress=progress, **budget, **given)
        render.print_json(run) if as_json else _print_previews(run.steps, str(run.forecast))
    elif dry_run:
        rows = api.preview(progress=progress, **given)
        render.print_json([records.to_data(r) for r in rows]) if as_json else _print_previews(rows)
    else:
        how = {"out": out, "post_finetune": post_finetune or 0, "forecast": forecast, **budget, **given}
        result = api.transfer(progress=progress, **how)
        render.print_json(result) if as_json else render.print_result(result)


def _budget(adapt: bool, **values: float | None) -> dict[str, Any]:
    """Return the budget that is asked for: what nacdeploy.toml says for `search` asks nothing of a transfer that does
    not adapt."""
    asked = {name: value for name, value in values.items() if adapt or options.on_command_line(name)}
    return {"adapt": adapt, **asked} if adapt or asked else {}


def _print_previews(rows: Any, forecast: str = "") -> None:
    """Print a dry run, letter by letter, and what is told of its end."""
    columns = ["letter", "decision", "MACs", "BitOps", "KiB"]
    table = [
        [r.link, r.refused or r.explanation, f"{r.macs:,}", f"{r.bitops:,}", f"{r.memory_bits / 8192:.0f}"]
        for r in rows
    ]
    trained = " and the forecast" if forecast else ""
    render.print_table(
        f"dry run: nothing is trained but for the baseline{trained}, and no result is written", columns, table
    )
    if forecast:
        click.echo(f"forecast: {forecast}")
