"""nacdeploy encode"""

from pathlib import Path

import click

from nacdeploy.cli import options, render


@click.command("encode")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", required=True, help="File to write.")
@click.option("--rules", type=click.Path(path_type=Path), metavar="FILE", help="Coding rules in the old grammar.")
@options.as_json
def command(source: Path, out: Path, rules: Path | None, as_json: bool) -> None:
    """Write a checkpoint or an artifact into one small file, exact to the bit: Huffman codes, zero runs, zstd."""
    from nacdeploy.jobs import code

    encoded = code.encode(source, out, rules, render.RichProgress())
    render.print_json(encoded) if as_json else render.print_encoded(encoded)
