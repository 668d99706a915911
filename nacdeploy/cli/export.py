"""nacdeploy export"""

from typing import Any

import click

from nacdeploy.cli import options, render
from nacdeploy.exporters.targets import FOLDERS


@click.command("export")
@click.option("--from", "source", metavar="DIR", help="A result or checkpoint, or wandb:entity/project/name:alias.")
@click.option(
    "--target", metavar="T", help=f"{', '.join(FOLDERS)}, triton, or another package's; the profile's by default."
)
@options.out
@options.trusted_model
@click.option("--profile", metavar="P", help="Take the export settings of this profile.")
@click.option("--autotune", is_flag=True, help="Keep INT8 only where it is measured to pay.")
@click.option("--guard/--no-guard", default=None, help="Fall back to float where INT8 is slower; the profile's choice.")
@options.precision
@options.trackers
@options.as_json
def command(as_json: bool, **given: Any) -> None:
    from nacdeploy import api
    from nacdeploy.commands import repository
    from nacdeploy.exporters.artifacts import artifact

    folder = api.export(progress=render.RichProgress(), **given)
    if models := repository.listed(folder):
        _print_repository(folder, models, as_json)
        return
    manifest, rows = artifact.load(folder)
    if as_json:
        render.print_json({"artifact": str(folder), **_plain(manifest)})
    else:
        _print_artifact(folder, manifest, rows)


def _plain(manifest: Any) -> dict[str, Any]:
    from nacdeploy.base import records

    data: dict[str, Any] = records.to_data(manifest)
    return data


def _print_repository(folder: Any, models: list[str], as_json: bool) -> None:
    if as_json:
        render.print_json({"repository": str(folder), "models": models})
        return
    click.echo(f"repository: {folder} (tritonserver --model-repository={folder})")


def _print_artifact(folder: Any, manifest: Any, rows: Any) -> None:
    """Print the fate of each layer, and the place of the artifact."""
    table = [[row.layer, row.kind, row.asked, row.held, row.reason] for row in rows]
    render.print_table(
        f"{manifest.chain or 'FP32'} for {manifest.target}", ["layer", "kind", "asked", "held", "why"], table
    )
    if manifest.parity is not None:
        snr = "exact" if manifest.parity.snr_db is None else f"{manifest.parity.snr_db:.1f} dB"
        agreement = f"{100 * manifest.parity.agreement:.2f} % {manifest.metric.agreement}"
        click.echo(f"parity with the torch model on {manifest.parity.n_images} validation images: {agreement}, {snr}")
    for capability, file in manifest.engines.items():
        click.echo(f"engine {capability}: {folder / file} (built with {manifest.builder})")
    if manifest.cascade is not None:
        click.echo(_expectation(manifest))
    for note in manifest.notes:
        click.echo(f"note: {note}")
    click.echo(f"artifact: {folder}")


def _expectation(manifest: Any) -> str:
    """Say in which form exits run, and what is expected of them."""
    from nacdeploy.metrics import shown_drop

    cascade = manifest.cascade
    if None in (cascade.expected_ms, cascade.whole_ms, cascade.drop):
        return f"exits in form '{cascade.form}': their times were not measured here"
    shares = ", ".join(f"{100 * share:.0f} %" for share in cascade.fractions)
    lost = shown_drop(manifest.metric, cascade.drop)
    return (
        f"exits in form '{cascade.form}' ({cascade.timed_in}): {cascade.expected_ms:.3f} ms expected at batch 1, all "
        f"outputs in one graph {cascade.whole_ms:.3f} ms; {shares} of validation leave at the exits, {lost} below the "
        "network's own end"
    )
