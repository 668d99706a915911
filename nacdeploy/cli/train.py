"""nacdeploy train"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("train")
@options.shared("model", "data", "task", "width", "input_size", "preprocess", "normalize", "classes", "profile", "seed")
@options.out
@click.option("--epochs", type=click.IntRange(min=1), help="At most so many epochs.")
@options.as_json
def command(out: Path | None, epochs: int | None, as_json: bool, **shared: Any) -> None:
    from nacdeploy import api

    folder = api.train(out=out, epochs=epochs, progress=render.RichProgress(), **shared)
    render.print_json({"checkpoint": str(folder)}) if as_json else click.echo(f"checkpoint: {folder}")
