"""The lineage of what a run made: data -> baseline -> checkpoint and strategy -> artifact, as trackers record it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.base.tracking import Item, Served, Sinks
from nacdeploy.results.result import Result
from nacdeploy.strategies.steps.checkpoint import Record

_OF_DATA = ("name", "fingerprint", "split_seed")


def sinks(runs: Path | str, *, wandb: bool, mlflow: bool) -> Sinks:
    """Return the trackers that a command wants; MLflow's folder is shared by the runs of a folder."""
    return Sinks(wandb=wandb, mlflow=mlflow, store=Path(runs) / "mlflow")


def of_result(result: Result, record: Record, strategy: Path) -> tuple[Item, Item]:
    """Return the checkpoint of a result, and the strategy that led to it."""
    data = _data(record)
    baseline = Item("checkpoint", f"{result.model}-fp32", Path(result.baseline_checkpoint), parents=(data,))
    facts = {"chain": result.chain, "profile": result.profile, "figures": records.to_data(result.figures)}
    name, aliases = f"{result.model}-{result.data}", (result.chain or "fp32", result.profile)
    made = Item("checkpoint", name, Path(result.checkpoint), facts, aliases, (data, baseline))
    return made, Item("strategy", f"{name}-strategy", strategy, facts, aliases, (data, baseline))


def of_artifact(path: Path, record: Record, source: Path, target: str, served: Served | None) -> Item:
    """Return an artifact with the checkpoint that it was exported from."""
    chain = record.chain or "fp32"
    data = _data(record)
    parent = Item("checkpoint", f"{record.model.name}-{data.name}", source, {"chain": chain}, (chain,), (data,))
    facts = {"chain": chain, "target": target, "test": record.test}
    return Item(
        "artifact", f"{record.model.name}-{data.name}-{target}", path, facts, (chain, target), (parent,), served
    )


def _data(record: Record) -> Item:
    known: Mapping[str, Any] = record.data
    return Item("dataset", str(known.get("name", "data")), metadata={name: known.get(name) for name in _OF_DATA})
