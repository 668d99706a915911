"""nacdeploy encode"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("encode")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", required=True, help="File to write.")
@click.option("--rules", type=click.Path(path_type=Path), metavar="FILE", help="Coding rules in the old grammar.")
@options.as_json
def command(source: Path, out: Path, rules: Path | None, as_json: bool) -> None:
    from nacdeploy.commands.encode import encode

    encoded = encode(source, out, rules, render.RichProgress())
    render.print_json(encoded) if as_json else _print_encoded(encoded)


def _print_encoded(encoded: Any) -> None:
    """Print the size of each tensor in the container, and the container beside zstd of the same tensors."""
    columns = ["tensor", "type", "shape", "method", "run bits", "bits per element", "bytes", "before"]
    rows = [
        [
            row.name,
            row.dtype,
            "x".join(map(str, row.shape)),
            row.method,
            str(row.run_bits or ""),
            f"{row.bits_per_element:.2f}",
            f"{row.n_bytes:,}",
            f"{row.n_bytes_before:,}",
        ]
        for row in encoded.rows
    ]
    render.print_table("", columns, rows)
    for line in encoded.ignored:
        click.echo(f"note: {line}")
    click.echo(
        f"{encoded.n_bytes_before:,} bytes of files in {encoded.n_bytes:,}; their tensors alone through zstd (level "
        f"{encoded.zstd_level}): {encoded.n_bytes_zstd:,}"
    )
    click.echo(f"container: {encoded.path}")
