"""nacdeploy optimize"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render
from nacdeploy.cli.bench import print_bench
from nacdeploy.exporters.targets import FOLDERS


@click.command("optimize")
@click.argument("network", type=click.Path(path_type=Path))
@click.option("--target", metavar="T", default="ort", show_default=True, help=f"{', '.join(FOLDERS)}, or another's.")
@click.option("--strategy", metavar="S", help="Another chain than Q, such as P(ratio=0.2)F(distill=1)Q.")
@click.option(
    "--min-snr",
    "min_snr_db",
    type=click.FloatRange(0, 120),
    metavar="DB",
    help="Signal to noise that the answers keep against the float network's (25).",
)
@options.shared("data", "input_size", "preprocess", "normalize", "classes", "profile", "seed")
@options.out
@click.option("--autotune", is_flag=True, help="Measure the precision of every group of layers.")
@click.option("--exclude", multiple=True, metavar="NODE", help="Nodes that stay as they are, by a pattern: /head/*.")
@click.option("--fix", multiple=True, metavar="INPUT=VALUE", help="An input that is the same at every call.")
@options.trackers
@options.as_json
def command(network: Path, as_json: bool, **given: Any) -> None:
    from nacdeploy import api

    found = api.optimize(network, progress=render.RichProgress(), **given)
    if as_json:
        render.print_json(found)
        return
    rows = [[layer, reason] for layer, reason in found.in_float.items()]
    if rows:
        render.print_table("not in integers", ["layer", "why"], rows)
    if found.kept:
        render.print_table("as in the file", ["node", "why"], [[node, reason] for node, reason in found.kept.items()])
    for note in found.notes:
        click.echo(f"note: {note}")
    print_bench(found.table)
    click.echo(f"artifact: {found.artifact}\nfile: {found.file}")
