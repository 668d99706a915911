"""nacdeploy finetune"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("finetune")
@click.option(
    "--from", "source", required=True, metavar="DIR", type=click.Path(path_type=Path), help="A result folder."
)
@options.out
@options.trusted_model
@click.option("--epochs", type=click.IntRange(min=1), help="At most so many epochs.")
@click.option("--distill", type=click.FloatRange(0, 1), help="Share of the FP32 network's answers in the loss.")
@options.trackers
@options.as_json
def command(
    source: Path, out: Path | None, epochs: int | None, distill: float | None, as_json: bool, **shared: Any
) -> None:
    from nacdeploy import api

    result = api.finetune(
        source=source, epochs=epochs, distill=distill, out=out, progress=render.RichProgress(), **shared
    )
    render.print_json(result) if as_json else render.print_result(result)
