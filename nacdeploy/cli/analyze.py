"""nacdeploy analyze"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("analyze")
@options.task_options
@options.out
@click.option("--techniques", metavar="T,...", help="prune, sparsify, quantize, decompose: all of them unless named.")
@click.option("--ratios", metavar="R,...", help="Shares to try (0.25,0.5,0.75).")
@click.option("--layers", metavar="L,...", help="Layers to try, by module name (all).")
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="What one may lose, in the metric's unit (1 point).",
)
@click.option("--write", metavar="FILE", type=click.Path(path_type=Path), help="Configuration of D to write, as YAML.")
@click.option("--config-type", metavar="TYPE", default="vbmf", help="vbmf, none, param_reduction or template (vbmf).")
@click.option(
    "--latency-table",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measure the times of layers by width on the target, and write them.",
)
@click.option("--resume", metavar="DIR", type=click.Path(path_type=Path), help="Go on with an analysis.")
@options.as_json
def command(
    techniques: str | None,
    ratios: str | None,
    layers: str | None,
    resume: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    from nacdeploy import api

    wanted = {"techniques": _names(techniques), "ratios": _numbers(ratios), "layers": _names(layers)}
    if resume is not None and any(wanted.values()):
        raise click.UsageError("--resume goes on with what was asked: leave --techniques, --ratios and --layers away.")
    asked: dict[str, Any] = {name: value for name, value in wanted.items() if value}
    found = api.analyze(resume=resume, progress=render.RichProgress(), **asked, **given)
    render.print_json(found) if as_json else _print_analysis(found)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in (text or "").split(","))))


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(map(float, _names(text)))
    except ValueError as error:
        raise click.UsageError(f"--ratios takes numbers such as 0.25,0.5,0.75, not '{text}'.") from error


def _print_analysis(found: Any) -> None:
    """Print the layers with what they cost and the strongest setting that each bears alone, and where the tables
    lie."""
    techniques = list(found.suggested)
    columns = ["layer", "kind", "shape", "MACs", "MACs %", "parameters", "coupled to", *techniques]
    rows = [
        [
            row.layer,
            row.kind,
            row.shape,
            f"{row.macs:,}",
            render.percent(row.macs_fraction, 1),
            f"{row.n_parameters:,}",
            row.dependency_root if row.dependency_root != row.layer else "",
            *(found.suggested[technique].get(row.layer, "") for technique in techniques),
        ]
        for row in found.layers
    ]
    from nacdeploy import metrics

    title = f"baseline {metrics.shown(metrics.named(found.metric), found.baseline_score)} on validation"
    render.print_table(f"{title}; the strongest setting that each bears alone", columns, rows)
    click.echo(f"analysis: {found.folder}")
