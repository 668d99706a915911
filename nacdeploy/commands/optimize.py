"""A bare ONNX file made faster, in one step: quantized without labels or training, checked, timed against itself."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy.base import heap
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Progress, default
from nacdeploy.commands.bench import bench
from nacdeploy.commands.export import export
from nacdeploy.commands.transfer import transfer
from nacdeploy.exporters import bench as bench_runner
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest
from nacdeploy.models import from_onnx
from nacdeploy.models.from_onnx import naming
from nacdeploy.sessions.options import Options, filled
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.strategy import Strategy

MIN_SNR_DB = 25.0
_N_ATTEMPTS, _MOST_DB = 3, 100.0


@dataclass(frozen=True)
class Optimized:
    """The outcome of `optimize`.

    Attributes:
        artifact: the folder of the artifact.
        file: the ONNX file in it, with the inputs and outputs of the original.
        in_float: the reason for each layer that stays float.
        kept: the nodes of the file that stay as they are, each with the reason.
        notes: lines on how the artifact was made and checked.
        table: score, size and speed beside the FP32 network, timed in turns.
    """

    artifact: Path
    file: Path
    in_float: dict[str, str]
    kept: dict[str, str]
    notes: tuple[str, ...]
    table: bench_runner.Table

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def optimize(
    network: Path | str,
    *,
    target: str = "ort",
    strategy: str | None = None,
    min_snr_db: float | None = None,
    out: Path | str | None = None,
    autotune: bool = False,
    exclude: Sequence[str] = (),
    fix: Sequence[str] = (),
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Optimized:
    """Make an ONNX file faster on a target without labels or training; the file itself is not touched.

    By default `Q(min_snr_db=25)`: integers, except for the layers that would take the answers below that ratio of
    signal to noise, and except where float is measured to be faster.

        >>> import nacdeploy
        >>> found = nacdeploy.optimize("runs/export-ort-1/model.onnx", data="random", profile="tiny.toml", out="fast")
        >>> found.file.name, [row.chain for row in found.table.rows]
        ('model.onnx', ['', 'Q(min_snr_db=25)'])

    Args:
        network: the ONNX file.
        strategy: another chain, such as `P(ratio=0.2)F(distill=1)Q`.
        min_snr_db: the ratio that the answers keep against the float network's, in decibels; 25 unless given. A
            strategy says it itself, `Q(min_snr_db=25)`.
        out: the folder of the artifact.
        autotune: measure the precision of every group of layers, also where integers pay as a whole.
        exclude: patterns of node names (`/head/*`) that stay as they are in the file.
        fix: `INPUT=VALUE` for inputs that are the same at every call and decide what runs; other values run as in the
            file.
        shared: `data` is a folder of images, `inputs:FILE.npz` with an array for each input by name, or a data set's
            name; without it inputs are drawn at random, which says little of real ones.

    Raises:
        UsageError: the file cannot be read, the data do not fit it, or both a strategy and `min_snr_db` are given.
        NacdeployError: the exported graph does not agree, or the target cannot be built for here.
    """
    progress, name = progress or default(), _named(str(network), exclude, fix)
    if strategy is not None and min_snr_db is not None:
        raise UsageError(f"a strategy of your own says itself what its answers keep: Q(min_snr_db={min_snr_db:g})")
    if not from_onnx.is_onnx(name):
        raise UsageError(f"optimize takes an ONNX file, net.onnx, not '{name}'; other networks: nacdeploy transfer")
    least_db = MIN_SNR_DB if min_snr_db is None else min_snr_db
    options = Options(**{**shared, "model": name, "data": _data(shared.get("data"))})
    ask = _Ask(options, target, out, autotune, progress)
    with heap.frugal():
        made, manifest, rows = _by(ask, strategy) if strategy is not None else _right(ask, least_db)
    kept = {layer: why for step in manifest.steps for layer, why in step.decision.get("left_out", {}).items()}
    in_float = {row.layer: kept.get(row.layer) or row.reason for row in rows if row.held.startswith("float")}
    table = bench([made], progress=progress)
    notes = (*manifest.notes, *_of_floats(rows, strategy, least_db))
    file = made / (manifest.whole_file or manifest.model_file)
    return Optimized(made, file, in_float, manifest.kept, notes, table)


@dataclass(frozen=True)
class _Ask:
    """The facts that stay the same from one attempt to the next."""

    options: Options
    target: str
    out: Path | str | None
    autotune: bool
    progress: Progress


def _by(ask: _Ask, strategy: str | Strategy) -> tuple[Path, Manifest, tuple[Lowering, ...]]:
    made = _once(ask, strategy)
    return made, *artifact.load(made)


def _right(ask: _Ask, min_snr_db: float) -> tuple[Path, Manifest, tuple[Lowering, ...]]:
    """Return an artifact whose whole file keeps the ratio of signal to noise too: what stays behind the network may
    amplify its noise. The network is then asked for more."""
    asked = min_snr_db
    for attempt in range(_N_ATTEMPTS):
        made, manifest, rows = _by(ask, _without_training(asked))
        short = 0.0 if manifest.whole_db is None else min_snr_db - manifest.whole_db
        if short <= 0 or asked >= _MOST_DB or attempt == _N_ATTEMPTS - 1:
            break
        asked = min(asked + short + 1, _MOST_DB)
        ask.progress.say(
            f"the whole file is at {manifest.whole_db:.1f} dB: its network is asked for {asked:.1f} dB instead"
        )
        shutil.rmtree(made)
    return made, manifest, rows


def _without_training(min_snr_db: float) -> Strategy:
    """Return Q with everything that makes integers right without training."""
    chain = Chain.parse(f"Q(min_snr_db={min_snr_db:.4g})")
    return Strategy(chain, {"quantize": {"calibration": "answers", "reconstruct": True}})


def _once(ask: _Ask, chain: str | Strategy) -> Path:
    options = filled(ask.options)
    result = transfer(strategy=chain, forecast=False, progress=ask.progress, **options)
    return export(
        source=result.folder,
        target=ask.target,
        out=ask.out,
        autotune=ask.autotune,
        runs=options["runs"],
        wandb=options["wandb"],
        mlflow=options["mlflow"],
        progress=ask.progress,
    )


def _of_floats(rows: Sequence[Lowering], strategy: str | None, min_snr_db: float) -> tuple[str, ...]:
    """Say that nothing is in integers, if so."""
    if any(not row.held.startswith("float") for row in rows):
        return ()
    keeps = f"keeps {min_snr_db:g} dB" if strategy is None else f"is asked for by {strategy}"
    return (f"NOTHING IS IN INTEGERS: no layer pays here and {keeps}; the artifact is in float",)


def _named(network: str, exclude: Sequence[str], fix: Sequence[str]) -> str:
    """Return the model's name with what is asked of its file."""
    if not (exclude or fix) or not from_onnx.is_onnx(network):
        return network
    name = from_onnx.parsed(network)
    fixed = {**name.fixed, **naming.fixed_by(fix)}
    return str(replace(name, exclude=(*name.exclude, *exclude), fixed=fixed))


def _data(given: Any) -> str:
    """Return a data set's name for what a newcomer gives: a folder, an .npz file, or nothing."""
    if given is None:
        return "random"
    if str(given).endswith(".npz") and ":" not in str(given):
        return f"inputs:{given}"
    return f"folder:{given}" if Path(str(given)).is_dir() else str(given)
