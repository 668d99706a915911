"""Moving the thresholds of an artifact's exits, without a new export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import own
from nacdeploy.exporters.artifacts import artifact as artifacts
from nacdeploy.exporters.artifacts.artifact import MANIFEST, Manifest
from nacdeploy.exporters.exits import moved
from nacdeploy.exporters.exits.curve import Setting


@dataclass(frozen=True)
class Tuned:
    """The gate of an artifact after `tune`, and what is expected of it on validation, for one image at a time.

    Attributes:
        artifact: the folder.
        confidence: the gate's rule.
        exits: the places of the exits in the network.
        thresholds: those in force.
        before: those that were in force.
        metric: the metric of scores and drops.
        form: the form in which the exits run.
        expected: what is expected of the thresholds; None where nothing is known of them.
        curve: all that can be chosen from without data.
    """

    artifact: str
    confidence: str
    exits: tuple[str, ...]
    thresholds: tuple[float, ...]
    before: tuple[float, ...]
    metric: str
    form: str
    expected: Setting | None
    curve: tuple[Setting, ...]


def tune(
    artifact: Path | str,
    *,
    max_drop: float | None = None,
    latency_ms: float | None = None,
    thresholds: str | Sequence[float] | None = None,
) -> Tuned:
    """Move the thresholds of a deployed artifact's exits; without a bound say what they are, and change nothing.

    The artifact's own curve, measured on validation at its export, says what is expected. Its other files stay as they
    are, and all hashes stay right.

        >>> import nacdeploy
        >>> tuned = nacdeploy.tune("runs/export-ort-1", thresholds=[0.9])
        >>> tuned.thresholds
        (0.9,)

    Args:
        max_drop: take the fastest thresholds that lose at most this against the network's own end, in the metric's
            unit.
        latency_ms: take the best thresholds whose expected mean time is at most this.
        thresholds: take these, one for each exit; in a text apart by commas, "never" among them.

    Raises:
        UsageError: it is no artifact with exits, or a bound or a threshold is out of range.
        NacdeployError: no thresholds hold the bound, or the folder cannot be written.
    """
    folder = Path(artifact)
    manifest = _with_exits(folder)
    _check(max_drop, latency_ms, thresholds)
    gate = manifest.gate
    assert gate is not None
    has_curve = manifest.cascade is not None and bool(manifest.cascade.curve_file)
    asks_curve = max_drop is not None or latency_ms is not None
    curve = moved.curve_of(folder, manifest) if has_curve or asks_curve else None
    now = manifest
    if thresholds is not None:
        now = moved.set_to(manifest, None, gate.confidence, moved.parsed(thresholds, len(gate.exits)))
    elif asks_curve and curve is not None:
        now = moved.set_to(manifest, moved.chosen(curve, manifest, max_drop, latency_ms), curve.confidence)
    if now is not manifest:
        was_own = own.is_own(folder / MANIFEST)
        now = moved.write(folder, now)
        if was_own:
            own.note(folder / MANIFEST)
    return _tuned(folder, manifest, now, curve.settings if curve else ())


def _with_exits(folder: Path) -> Manifest:
    """Return the manifest of an artifact with exits.

    Raises:
        UsageError: it has none.
    """
    manifest, _ = artifacts.load(folder)
    if manifest.gate is None or not manifest.gate.exits:
        raise UsageError(f"{folder} has no exits (chain '{manifest.chain or 'FP32'}'): E adds them to a network")
    return manifest


def _check(max_drop: float | None, latency_ms: float | None, thresholds: object) -> None:
    """Check that at most one bound is given, and that it is one.

    Raises:
        UsageError: there are more, or it is out of range.
    """
    if sum(each is not None for each in (max_drop, latency_ms, thresholds)) > 1:
        raise UsageError("give one of --max-drop, --latency-ms and --thresholds")
    if max_drop is not None and not 0 <= max_drop < float("inf"):
        raise UsageError(f"--max-drop is {max_drop:g}: a drop that thresholds may cost is 0 or more")
    if latency_ms is not None and not 0 < latency_ms < float("inf"):
        raise UsageError(f"--latency-ms is {latency_ms:g}: a time is more than 0")


def _tuned(folder: Path, before: Manifest, now: Manifest, curve: tuple[Setting, ...]) -> Tuned:
    old, gate, cascade = before.gate, now.gate, now.cascade
    assert old is not None and gate is not None
    expected = None
    if cascade is not None and cascade.expected_ms is not None:
        score, lost = cascade.score or 0.0, cascade.drop or 0.0
        expected = Setting(gate.thresholds, score, lost, cascade.expected_ms, cascade.fractions)
    return Tuned(
        artifact=str(folder),
        confidence=gate.confidence,
        exits=tuple(each.place for each in gate.exits),
        thresholds=gate.thresholds,
        before=old.thresholds,
        metric=now.metric.name,
        form=cascade.form if cascade else "whole",
        expected=expected,
        curve=curve,
    )
