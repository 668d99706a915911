"""nacdeploy bench"""

from pathlib import Path

import click

from nacdeploy.cli import options, render


@click.command("bench")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--baseline", metavar="ARTIFACT", type=click.Path(path_type=Path), help="Default: the FP32 original.")
@options.data
@click.option("--batch", type=click.IntRange(min=1), help="Images per call.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime.")
@options.as_json
def command(
    artifacts: tuple[Path, ...],
    baseline: Path | None,
    data: str | None,
    batch: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time artifacts against the FP32 baseline, turn by turn, and score them on the test split."""
    from nacdeploy import api

    table = api.bench(
        artifacts, baseline=baseline, data=data, batch=batch, threads=threads, progress=render.RichProgress()
    )
    render.print_json(table) if as_json else render.print_bench(table)
