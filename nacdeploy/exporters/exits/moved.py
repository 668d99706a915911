"""Moving the thresholds of an artifact's exits in its files: the manifest, and the one file that holds them too.

A new file is written under a name of its own before the manifest names it: at no time is the artifact damaged.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.cascades.cascade import NEVER
from nacdeploy.exporters.artifacts.artifact import MANIFEST, Gate, Manifest
from nacdeploy.exporters.describe import said_rule
from nacdeploy.exporters.exits.curve import Curve, Setting, within_drop, within_time
from nacdeploy.exporters.onnx_graph.nested_if import with_thresholds
from nacdeploy.metrics import shown_drop


def set_to(manifest: Manifest, setting: Setting | None, confidence: str, thresholds: Sequence[float] = ()) -> Manifest:
    """Return a manifest with the thresholds of a setting and what is expected of it, or with thresholds alone."""
    gate, cascade = manifest.gate or Gate(), manifest.cascade
    values = setting.thresholds if setting is not None else thresholds
    exits = [replace(each, threshold=value) for each, value in zip(gate.exits, values, strict=True)]
    if cascade is not None:
        cascade = replace(
            cascade,
            fractions=setting.fractions if setting else (),
            expected_ms=setting.expected_ms if setting else None,
            score=setting.score if setting else None,
            drop=setting.expected_drop if setting else None,
        )
    return replace(manifest, gate=Gate(said_rule(confidence), tuple(exits), confidence), cascade=cascade)


def curve_of(folder: Path, manifest: Manifest) -> Curve:
    """Read the curve of an artifact's exits.

    Raises:
        UsageError: it has none, or that of other exits.
    """
    if manifest.cascade is None or not manifest.cascade.curve_file:
        raise UsageError(
            f"{folder} holds no curve of its exits, which save no time in one whole graph: give --thresholds, or "
            "export again with export.exits = 'segments'"
        )
    path = folder / manifest.cascade.curve_file
    curve = records.read(Curve, path)
    n_exits = len(manifest.gate.exits) if manifest.gate else 0
    if not curve.settings or any(len(each.thresholds) != n_exits for each in curve.settings):
        raise UsageError(f"{path} is not the curve of {n_exits} exits: export the artifact again")
    return curve


def chosen(curve: Curve, manifest: Manifest, max_drop: float | None, latency_ms: float | None) -> Setting:
    """Return the fastest setting within a drop, or the best one within a time.

    Raises:
        NacdeployError: none holds the bound; the text says what is within reach.
    """
    found = within_time(curve, latency_ms) if latency_ms is not None else within_drop(curve, max_drop or 0.0)
    if found is not None:
        return found
    fastest, best = curve.settings[0], min(curve.settings, key=lambda each: each.expected_drop)
    asked = f"{latency_ms:g} ms" if latency_ms is not None else shown_drop(manifest.metric, max_drop or 0.0)
    raise NacdeployError(
        f"no thresholds are expected within {asked}: they reach from {fastest.expected_ms:.4g} ms "
        f"({shown_drop(manifest.metric, fastest.expected_drop)} lost) to {best.expected_ms:.4g} ms "
        f"({shown_drop(manifest.metric, best.expected_drop)})"
    )


def parsed(text: str | Sequence[float], n_exits: int) -> tuple[float, ...]:
    """Read thresholds, one for each exit, apart by commas; "never" lets nothing leave there.

    Raises:
        UsageError: they are of another number, or no numbers from 0 to 1.
    """
    given: list[Any] = text.split(",") if isinstance(text, str) else list(text)
    found = tuple(map(_threshold, given))
    if len(found) != n_exits:
        raise UsageError(f"{n_exits} exits take {n_exits} thresholds, and {len(found)} are given")
    return found


def _threshold(given: Any) -> float:
    if str(given).strip() == "never":
        return NEVER
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = float("nan")
    if not (0 <= value <= 1 or value == NEVER):
        raise UsageError(f"threshold '{str(given).strip()[:40]}' is none: a number from 0 to 1, or 'never'")
    return value


def write(folder: Path, manifest: Manifest) -> Manifest:
    """Write the gate and cascade of a manifest into the artifact that it was read from; return it as written.

    Raises:
        NacdeployError: the folder cannot be written.
    """
    old = ""
    if manifest.cascade is not None and manifest.cascade.if_file:
        old = manifest.cascade.if_file
        manifest = _with_file(folder, manifest)
    path, gate, cascade = folder / MANIFEST, manifest.gate, manifest.cascade
    said = {"gate": records.to_data(gate), "cascade": records.to_data(cascade) if cascade else None}
    records.write_json(path, {**records.read_json(path), **said, "files": manifest.files})
    if cascade is not None and old != cascade.if_file:
        (folder / old).unlink(missing_ok=True)
    return manifest


def _with_file(folder: Path, manifest: Manifest) -> Manifest:
    """Write the one file with the gate's thresholds, and return the manifest that names it."""
    cascade, gate = manifest.cascade, manifest.gate
    assert cascade is not None and gate is not None
    content = with_thresholds((folder / cascade.if_file).read_bytes(), gate.thresholds)
    digest = hashlib.sha256(content).hexdigest()
    name = f"exits-if-{digest[:8]}.onnx"
    records.write_bytes(folder / name, [content])
    kept = {key: value for key, value in manifest.files.items() if key != cascade.if_file}
    return replace(manifest, cascade=replace(cascade, if_file=name), files={**kept, name: digest})
