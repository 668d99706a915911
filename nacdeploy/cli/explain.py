"""nacdeploy explain"""

from pathlib import Path

import click

from nacdeploy.cli import options, render


@click.command("explain")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of ONNX Runtime.")
@click.option("--rounds", type=click.IntRange(min=3), default=10, show_default=True, help="Interleaved rounds.")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Also write the JSON document here.")
@options.as_json
def command(artifact: Path, threads: int, rounds: int, out: Path | None, as_json: bool) -> None:
    """Say why an artifact is or is not faster, layer by layer, worst first: read from the artifact, measured here."""
    from nacdeploy import api, records

    explained = api.explain(artifact, threads=threads, rounds=rounds, progress=render.RichProgress())
    if out is not None:
        records.write_json(out, explained)
    render.print_json(explained) if as_json else render.print_explanation(explained)
