"""The analysis of a network before it is compressed: layers, dependency sets, sensitivity; and the settings that
follow.

sensitivity.csv is both result and journal: a row is on the disk when its probe is done, and `resume` continues behind
the last whole one.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import models
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError, unknown
from nacdeploy.base.outside import doors
from nacdeploy.base.progress import Progress, default
from nacdeploy.metrics import DEFAULT, Metric, scored
from nacdeploy.network.cost import layer_costs
from nacdeploy.network.network import Network, count_parameters
from nacdeploy.reports.sensitivity_panel import write_picture
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import Request, recorded, wanted
from nacdeploy.strategies.operators.decompose import musco
from nacdeploy.strategies.steps import sensitivity
from nacdeploy.strategies.steps.sensitivity import Probe, Sensitivity
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.surgery.low_rank import decomposition
from nacdeploy.trials import surveying

RUN_FILE, TABLE_FILE = "analyze.json", "sensitivity.csv"
RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class AnalysisRun:
    """analyze.json: the request of an analysis, so that it can be resumed. The baseline is named by its content."""

    profile: dict[str, Any]
    checkpoint: str | None
    baseline: str
    techniques: tuple[str, ...]
    ratios: tuple[float, ...]
    layers: tuple[str, ...]
    new_head: bool = False


@dataclass(frozen=True)
class LayerRow:
    """One layer with weights: kind, weight shape, MACs for one image and their share, parameters, and the root of the
    dependency set that its output channels belong to (empty: they cannot be pruned)."""

    layer: str
    kind: str
    shape: str
    macs: int
    macs_fraction: float
    n_parameters: int
    dependency_root: str


@scored
@dataclass(frozen=True)
class Analysis:
    """The findings of an analysis, and the folder that holds them as tables, a picture and seeds for the next
    commands."""

    folder: str
    baseline_score: float
    layers: tuple[LayerRow, ...]
    dependency_sets: tuple[tuple[str, ...], ...]
    sensitivity: tuple[Sensitivity, ...]
    suggested: dict[str, dict[str, str]]
    metric: str = DEFAULT


def analyze(
    *,
    techniques: Sequence[str] | None = None,
    ratios: Sequence[float] = RATIOS,
    layers: Sequence[str] = (),
    max_drop: float | None = None,
    write: Path | str | None = None,
    config_type: str = musco.VBMF,
    latency_table: Path | str | None = None,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Analysis:
    """Measure how sensitive every layer of a network is to each technique, and write the analysis into a folder.

    The folder holds layers.csv, dependencies.csv, sensitivity.csv and .png, config_list.json and seed.toml.

        >>> import nacdeploy
        >>> analysis = nacdeploy.analyze(profile="tiny.toml", techniques=["prune"], ratios=[0.5], layers=["stem.0"])
        >>> [(row.layer, row.technique, row.setting) for row in analysis.sensitivity]
        [('stem.0', 'prune', '0.5')]

    Args:
        max_drop: the drop that a suggested setting may cost on one layer, in the metric's own unit; one point by
            default.
        techniques: all of them by default; with `latency_table` none.
        write: a file for a configuration of D (`decompose.config`) of the type `config_type`; it is written first.
        latency_table: a file for the times of the network's layers by width, in floats and integers, measured on the
            target here; P and a search against time take it elsewhere.

    Raises:
        UsageError: an unknown configuration type, technique or layer, a wrong ratio, or a resumed analysis of
            something else.
        NacdeployError: the target cannot be timed here, or the machine is too noisy.
    """
    progress = progress or default()
    models.name_by_user(shared.get("model"), shared.get("task"))
    techniques = (sensitivity.TECHNIQUES if latency_table is None else ()) if techniques is None else techniques
    if config_type not in musco.KINDS:
        raise unknown("configuration type", config_type, musco.KINDS)
    asked = _asked(Path(resume)) if resume is not None else None
    request = _continued(asked, Path(str(resume)), shared) if asked else wanted(shared)
    options = request.options
    reserved = Runs(Path(options["runs"])).place(out, "analyze") if resume is None else nullcontext(Path(resume))
    with reserved as place:
        session = open_session(replace(request, letters=""), progress)
        given = AnalysisRun(
            profile=session.profile.model_dump(mode="json"),
            checkpoint=options["checkpoint"],
            baseline=session.baseline.key,
            techniques=asked.techniques if asked else tuple(techniques),
            ratios=asked.ratios if asked else tuple(ratios),
            layers=asked.layers if asked else tuple(layers),
            new_head=options["new_head"],
        )
        if asked and asked.baseline != given.baseline:
            raise UsageError(f"{place} analysed another network than its baseline is now; start a new analysis")
        network = session.baseline.network
        if write is not None:
            layers_now = decomposition.layers(network, ())
            records.write_text(Path(write), musco.text(musco.generated(layers_now, config_type)))
        if latency_table is not None:
            surveying.write_table(session, Path(latency_table), progress)
        todo = [*sensitivity.probes(network, session.profile, given.techniques, given.ratios, given.layers)]
        if not asked:
            place.mkdir(parents=True, exist_ok=True)
            records.write_json(place / RUN_FILE, given)
        found = _measured(todo, session, place / TABLE_FILE, progress)
        return _left(session, found, max_drop, place)


def _asked(place: Path) -> AnalysisRun:
    if not records.is_file(place / RUN_FILE):
        raise UsageError(f"{place} is no analysis (it has no {RUN_FILE}); --resume takes the folder of one")
    return records.read(AnalysisRun, place / RUN_FILE)


def _continued(asked: AnalysisRun, resume: Path, options: Options) -> Request:
    return recorded(asked.profile, resume / RUN_FILE, options, asked.checkpoint, asked.new_head)


def _measured(todo: Sequence[Probe], session: Session, path: Path, progress: Progress) -> tuple[Sensitivity, ...]:
    known = {row.probe: row for row in _read(path)}
    with progress.bar("analysing") as bar:
        for i, probe in enumerate(todo):
            if probe not in known:
                known[probe] = sensitivity.found_by(probe, session.baseline, session.task, session.profile)
                _append(path, known[probe])
            bar.update(i + 1, len(todo), f"{probe.technique} {probe.layer} {probe.setting}")
    return tuple(known[probe] for probe in todo)


def _read(path: Path) -> list[Sensitivity]:
    """Return the whole rows of a table that may have been torn by a kill; what follows the last newline is cut off."""
    if not records.is_file(path):
        return []
    content = doors.read_bytes(path, "record_mib")
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    where = f"{path} (remove it to measure anew)"
    try:
        rows = [*csv.DictReader(io.StringIO(whole.decode("utf-8"), newline=""))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{where} is no table ({error})") from error
    return [records.from_data(Sensitivity, {k: v for k, v in row.items() if v != ""}, where) for row in rows]


def _append(path: Path, row: Sensitivity) -> None:
    lines = io.StringIO(newline="")
    data = records.to_data(row)
    writer = csv.DictWriter(lines, list(data), lineterminator="\n")
    if not path.is_file() or not path.stat().st_size:
        writer.writeheader()
    writer.writerow(data)
    try:
        with path.open("ab") as file:
            file.write(lines.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise NacdeployError(
            f"cannot write {path}: {error.strerror}; free some space and go on with --resume"
        ) from error


def _left(session: Session, found: tuple[Sensitivity, ...], max_drop: float | None, place: Path) -> Analysis:
    """Tables, picture and seeds in the folder of the analysis."""
    network = session.baseline.network
    score, metric = session.baseline.metrics.score, session.task.metric
    max_drop = metric.point(session.baseline.metrics.chance) if max_drop is None else max_drop
    techniques = dict.fromkeys(row.technique for row in found)
    suggested = {technique: sensitivity.strongest(found, technique, max_drop) for technique in techniques}
    sets = tuple(group.layers for group in channel_groups.groups(network))
    analysis = Analysis(str(place), score, _layer_rows(network, sets), sets, found, suggested, metric.name)
    _write_csv(place / "layers.csv", [asdict(row) for row in analysis.layers])
    rows = [{"root": names[0], "layer": name} for names in sets for name in names]
    _write_csv(place / "dependencies.csv", rows)
    records.write_json(place / "config_list.json", _config_list(suggested))
    records.write_text(place / "seed.toml", _seed(suggested, max_drop, metric))
    if found:
        write_picture(found, score, metric, place / "sensitivity.png")
    return analysis


def _layer_rows(network: Network, sets: Sequence[Sequence[str]]) -> tuple[LayerRow, ...]:
    roots = {name: names[0] for names in sets for name in names}
    macs = {cost.layer: cost.macs for cost in layer_costs(network, network.example_input())}
    total = max(1, sum(macs.values()))
    rows = []
    for name, layer in network.layers.items():
        shape = "x".join(map(str, layer.weight.shape))  # type: ignore[arg-type]
        n = macs.get(name, 0)
        kind = type(layer).__name__
        rows.append(LayerRow(name, kind, shape, n, n / total, count_parameters(layer), roots.get(name, "")))
    return tuple(rows)


def _config_list(suggested: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Return the suggestions as the `config_list` of a compression experiment: sparsity of pruning, else of masks."""
    ratios = suggested.get("prune") or suggested.get("sparsify") or {}
    return [{"sparsity": float(ratio), "op_types": ["default"], "op_names": [name]} for name, ratio in ratios.items()]


def _seed(suggested: dict[str, dict[str, str]], max_drop: float, metric: Metric) -> str:
    """Return the suggestions as tables of a profile."""
    tables = {"prune": "prune.ratios", "sparsify": "sparsify.ratios", "quantize": "quantize.layer_bits"}
    lost = f"{max_drop:g} {metric.drop_unit}"
    lines = [f"# By layer, the strongest setting that alone loses at most {lost} of validation {metric.title}."]
    for technique, layers in suggested.items():
        if technique in tables and layers:
            lines += ["", f"[{tables[technique]}]", *_settings(layers.items(), quoted=technique == "quantize")]
    return "\n".join(lines) + "\n"


def _settings(layers: Iterable[tuple[str, str]], quoted: bool) -> list[str]:
    show: Callable[[str], str] = (lambda text: f'"{text}"') if quoted else str
    return [f'"{layer}" = {show(setting)}' for layer, setting in layers]


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    records.write_text(path, text.getvalue())
