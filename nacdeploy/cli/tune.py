"""nacdeploy tune"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("tune")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--max-drop", type=float, metavar="D", help="The fastest thresholds that lose at most this.")
@click.option("--latency-ms", type=float, metavar="MS", help="The best thresholds within this expected mean time.")
@click.option("--thresholds", metavar="T,T", help="One for each exit, from 0 to 1 or 'never'.")
@options.as_json
def command(artifact: Path, as_json: bool, **given: Any) -> None:
    from nacdeploy import api

    tuned = api.tune(artifact, **given)
    render.print_json(tuned) if as_json else _print(tuned)


def _print(tuned: Any) -> None:
    """Print what can be chosen from, the thresholds in force, and what is expected of them."""
    from nacdeploy.metrics import named, shown_drop

    metric = named(tuned.metric)
    if tuned.curve:
        columns = [
            "expected ms",
            f"{metric.column} {metric.unit}".rstrip(),
            "drop",
            "held out",
            "leave at exits",
            "thresholds",
        ]
        rows = [_row(metric, setting) for setting in tuned.curve]
        render.print_table(f"exits in form '{tuned.form}', by {tuned.confidence or 'the metric'}", columns, rows)
    was = "" if tuned.before == tuned.thresholds else f" (before: {_said(tuned.before)})"
    click.echo(f"thresholds: {_said(tuned.thresholds)}{was}")
    if tuned.expected is None:
        click.echo("nothing is known of them on validation: 'nacdeploy bench' measures them")
        return
    found = tuned.expected
    click.echo(
        f"expected: {found.expected_ms:.3f} ms at batch 1, {shown_drop(metric, found.drop)} below the network's own "
        f"end; {_shares(found)} leave at the exits"
    )


def _row(metric: Any, setting: Any) -> list[str]:
    """Return the cells of a setting; its drop on images that did not choose it stands beside the other."""
    from nacdeploy.metrics import cell, shown_drop

    held_out = "" if setting.held_out is None else shown_drop(metric, setting.held_out)
    drops = shown_drop(metric, setting.drop), held_out
    return [
        f"{setting.expected_ms:.3f}",
        cell(metric, setting.score),
        *drops,
        _shares(setting),
        _said(setting.thresholds),
    ]


def _shares(setting: Any) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in setting.fractions)


def _said(thresholds: Any) -> str:
    return ", ".join("never" if each > 1 else f"{each:.4g}" for each in thresholds)
