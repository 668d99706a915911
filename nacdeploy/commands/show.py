"""The descriptions of `nacdeploy show`: of a strategy, a checkpoint, an artifact or a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.progress import Progress, default
from nacdeploy.commands import sources
from nacdeploy.commands.analyze import RUN_FILE as ANALYSIS_FILE
from nacdeploy.commands.compress import EXPERIMENT_FILE, Compressed
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.metrics import Metric, named, shown
from nacdeploy.profile.settings import Settings
from nacdeploy.results.result import RESULT_FILE, Result
from nacdeploy.sessions import resuming
from nacdeploy.sessions.options import Options
from nacdeploy.strategies.search import journal
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.strategy import FILE as STRATEGY_FILE
from nacdeploy.strategies.strategy import Strategy, resolve


@dataclass(frozen=True)
class Shown:
    """Lines for people and plain data for machines."""

    lines: tuple[str, ...]
    data: Any


def show(
    what: str | None = None,
    *,
    settings: bool = False,
    search: Mapping[str, Any] | None = None,
    precision: Path | str | None = None,
    rules: Path | str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Shown:
    """Describe a strategy (a word or a catalog name), or a folder that a command wrote.

    With `settings`, list every key in force and its source. `what` then decides whose settings: a strategy has those of
    `transfer` with the same options and files; a run, result or checkpoint has its own; without `what` they are those
    of `search` with the same options and the keys `search` of its table.

        >>> import nacdeploy
        >>> nacdeploy.show("runs/transfer-QEF-1").data["chain"]
        'QEF'

    Raises:
        NacdeployError: `what` is a run that is not finished.
        UsageError: `what` is none of these.
    """
    if settings:
        return _settings(sources.in_force(what, shared, search or {}, precision, rules, progress or default()))
    if what is None:
        raise UsageError("say what to show: a strategy, or the folder of a checkpoint, artifact or run; or --settings")
    path = Path(what)
    kinds: tuple[tuple[Callable[[Path], bool], Callable[[Path], Shown]], ...] = (
        (artifact.is_artifact, _artifact),
        (checkpoints.is_checkpoint, _checkpoint),
        (lambda p: records.is_file(p / EXPERIMENT_FILE), _experiment),
        (lambda p: records.is_file(p / RESULT_FILE), _run),
    )
    for matches, describe in kinds:
        if matches(path):
            return describe(path)
    if not records.is_file(path / STRATEGY_FILE):
        _check_is_known(path)
    return _strategy(what)


def _settings(found: Settings) -> Shown:
    rows = found.rows()
    lines = []
    for row in rows:
        weaker = ", ".join(f"{each.value} ({each.source})" for each in row.instead_of)
        lines.append(f"{row.key} = {row.value}: {row.source}{f'; instead of {weaker}' if weaker else ''}")
    return Shown(tuple(lines), [records.to_data(row) for row in rows])


def _check_is_known(path: Path) -> None:
    """Say what lies at a path that is no strategy either.

    Raises:
        NacdeployError: a run that is not finished.
        UsageError: anything else.
    """
    if records.is_file(path / resuming.RUN_FILE):
        raise NacdeployError(_unfinished(path))
    if records.is_file(path / ANALYSIS_FILE):
        raise UsageError(f"{path} is an analysis: its tables are the .csv files in it; --resume {path} goes on with it")
    if path.is_dir():
        kinds = "strategy, checkpoint, artifact or finished run"
        raise UsageError(f"{path} holds no {kinds}; show takes the folder of one, as 'runs/search-1'")


def _unfinished(path: Path) -> str:
    """Say how far a run is, and what goes on with it."""
    if not records.is_file(path / resuming.JOURNAL):
        command = "compress" if (path / "jobs").is_dir() else "search"
        return f"{path} is not finished and has no result to show; nacdeploy {command} --resume {path} goes on with it"
    n_done = max(0, len(journal.read(path / resuming.JOURNAL)[1]) - 1)
    table = resuming.recorded(path).profile.get("search", {})
    return (
        f"{path} is not finished and has no result to show: {n_done} of {table.get('budget', '?')} chains are "
        f"evaluated; nacdeploy report {path} draws what there is, nacdeploy search --resume {path} goes on with it"
    )


def _artifact(path: Path) -> Shown:
    manifest, rows = artifact.load(path)
    lines = [
        f"artifact for {manifest.target}: {manifest.model.get('name')} compressed by '{manifest.chain or 'nothing'}'",
        f"model file: {manifest.model_file}, {artifact.size_bytes(path, manifest)} bytes; built {manifest.created}",
        *([_images(manifest.preprocessing)] if manifest.preprocessing else []),
        *(f"input {i.name} {i.shape} {i.dtype}" for i in manifest.inputs if not manifest.preprocessing),
        *(f"output {o.name} {o.shape} {o.dtype}" for o in manifest.outputs),
        *(f"{row.layer}: asked {row.asked}, held {row.held}{_because(row.reason)}" for row in rows),
        *(f"engine {capability}: {file}" for capability, file in manifest.engines.items()),
        f"licence of the weights: {manifest.license or 'unknown'}",
        *(f"note: {note}" for note in manifest.notes),
    ]
    data = {**records.to_data(manifest), "lowering": [records.to_data(row) for row in rows]}
    return Shown(tuple(lines), data)


def _checkpoint(path: Path) -> Shown:
    record = checkpoints.read_record(path)
    profile = record.settings()
    steps = [checkpoints.step_from_data(step) for step in record.steps]
    explained = [f"{s.link}: {letters.make(s.link, profile).explain(s.decision)}" for s in steps]
    now, base, metric = record.metrics, record.baseline, named(record.metrics.metric)
    if "name" not in record.data:
        raise UsageError(f"{path / checkpoints.RECORD} does not name its data; train or transfer again")
    lines = [
        f"checkpoint of {record.model.name} on {record.data['name']}, chain '{record.chain or 'none'}'",
        f"{metric.title} on validation {shown(metric, now.score)} (baseline {shown(metric, base.score)})",
        f"MACs {now.cost.macs:,} (baseline {base.cost.macs:,}), memory {now.cost.memory_bits // 8:,} bytes "
        f"(baseline {base.cost.memory_bits // 8:,})",
        *explained,
    ]
    return Shown(tuple(lines), records.to_data(record))


def _run(path: Path) -> Shown:
    result = records.read(Result, path / RESULT_FILE)
    scores, metric = result.scores, result.scores.scored_by
    lines = (
        f"{result.kind} of {result.model} on {result.data}: '{result.chain}'",
        f"test {metric.title} {shown(metric, scores.compressed)} (baseline {shown(metric, scores.baseline)}, "
        f"control {shown(metric, scores.control)})",
        *(
            f"{name}: {_said(name, value, metric)}"
            for name, value in records.to_data(result.figures).items()
            if value is not None and name != "metric"
        ),
        f"checkpoint: {result.checkpoint}",
    )
    return Shown(lines, records.to_data(result))


def _said(name: str, value: float, metric: Metric) -> str:
    """Return a figure as people write it: a count, a ratio or a score, by the house's names."""
    if name.startswith("n_"):
        return f"{value:,.0f}"
    if name.endswith("_ratio") or name.startswith("speed_"):
        return f"{value:.2f}x"
    return shown(metric, value)


def _experiment(path: Path) -> Shown:
    done = records.read(Compressed, path / EXPERIMENT_FILE)
    values = {row.number: row.error or row.status if row.value is None else f"{row.value:.6g}" for row in done.jobs}
    lines = (
        f"experiment {done.name} by {done.compressor}: {len(done.jobs)} jobs, best {done.best_job} with "
        f"{done.best_value:.6g}{f': {done.best_folder}' if done.best_folder else ''}",
        *(f"job {number}: {value}" for number, value in values.items()),
        *(_run(path).lines if done.result else ()),
    )
    return Shown(lines, records.to_data(done))


def _strategy(what: str) -> Shown:
    strategy = _resolved(what)
    known, chain = profiles.letters(), strategy.chain
    strange = next((link.letter for link in chain if link.letter not in known), None)
    if strange is not None:
        raise UsageError(
            f"nothing lies at '{what}', and it is no strategy: '{strange}' is no letter of {' '.join(known)}; show "
            "takes a word such as QPPF, a strategy.json, catalog:NAME, or the folder of a checkpoint, artifact or run"
        )
    names = [letters.kind(link.letter).name for link in chain]
    lines = [f"strategy {chain}: {' -> '.join(names)}"]
    lines += [f"{key}: {value}" for key, value in strategy.origin.items()]
    return Shown(tuple(lines), records.to_data(strategy))


def _images(taken: artifact.Preprocessing) -> str:
    """Say what has to be done to the images that an artifact takes."""
    mean, std = (", ".join(f"{value:.6g}" for value in scale) for scale in (taken.mean, taken.std))
    order = ", in the order blue, green, red" if taken.channel_order == "bgr" else ""
    shift = f", of {taken.bits} bits the upper 8" if taken.bits > 8 else ""
    return (
        f"images {taken.height}x{taken.width}, {taken.channels} channel{'s' if taken.channels > 1 else ''}: pixels / "
        f"{1 / taken.scale:g}{shift}{order}, less mean {mean}, over deviation {std}"
    )


def _resolved(what: str) -> Strategy:
    try:
        return resolve(what)
    except UsageError as error:
        if what.startswith("catalog:") or what.endswith(".json") or Path(what).is_dir():
            raise
        raise UsageError(f"nothing lies at '{what}', and it is no strategy: {error}") from error


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
