"""The chains of a search, evaluated by a pool of workers: only plain data travels.

A worker opens the search's session once (profile, data, baseline), and shares the search's memory.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from nacdeploy import data, models
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import live, records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.latencies.clock import TableClock
from nacdeploy.network.network import content
from nacdeploy.profile.settings import Settings
from nacdeploy.sessions.session import Session, timed
from nacdeploy.strategies import operators
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.search.engine import Pending, Workers
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.workers import Pool, WorkerOpener
from nacdeploy.strategies.state import CompressionState, Metrics, plain_key
from nacdeploy.strategies.steps import checkpoint, letters
from nacdeploy.strategies.steps.advance import VERSIONS
from nacdeploy.task.answers import answered
from nacdeploy.trials.equipment import equipped


def opener(session: Session, place: Path, cache: str) -> WorkerOpener:
    """Return the opening of a search's worker. The baseline goes by value: a machine need not see its folder."""
    baseline = session.baseline
    if live.is_live(session.task.spec.name):
        raise UsageError(
            f"'{session.task.spec.name}' lives in this Python program, and workers are processes of their own: write "
            "it as a function in a file, task='path/file.py:function', or search without workers"
        )
    values = {name: value.detach().cpu().contiguous() for name, value in content(baseline.network).items()}
    setup = {
        "code": _code(session.profile.search.alphabet),
        "profile": session.profile.model_dump(mode="json"),
        "baseline": {"key": baseline.key, "metrics": records.to_data(baseline.metrics), "values": save(values)},
        "model_sha256": session.task.spec.source_sha256,
        "data_sha256": session.task.data.fingerprint,
        "place": str(place.absolute()),
        "latencies": str(clock.root.absolute()) if isinstance(clock := session.task.clock, TableClock) else "",
        "cache": cache,
    }
    return WorkerOpener(f"{__name__}:{evaluator.__name__}", setup)


def evaluator(setup: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return, in a worker, the function from a chain's text to the data of its row.

    Raises:
        NacdeployError: this machine's package, data or model are not those of the search.
    """
    here, there = _code(setup["profile"]["search"]["alphabet"]), setup["code"]
    if here != there:
        keys = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
        differs = ", ".join(f"{key}: {here.get(key)} there, {there.get(key)} here" for key in keys)
        raise NacdeployError(f"a worker has other code than the search ({differs}); install the same where it runs")
    profile = profiles.from_mapping(setup["profile"], where="the search's profile")
    models.accept_here(profile.model, setup["model_sha256"])
    data.name_by_user(profile.data)  # the driver has them already; another machine may not
    task = tasks.make(profile.model, profile.data, profile)
    if task.data.fingerprint != setup["data_sha256"]:
        raise NacdeployError(f"a worker finds other images in '{profile.data}' than the search; give it the same")
    network = plain_network(task, profile)
    checkpoint.fill(network, load(setup["baseline"]["values"]), "the baseline")
    task = answered(task, network, plain_key(network))
    metrics = records.from_data(Metrics, setup["baseline"]["metrics"])
    baseline = CompressionState(network, metrics, metrics)
    if baseline.key != setup["baseline"]["key"]:
        raise NacdeployError(f"a worker builds another '{profile.model}' than the search; give it the same model file")
    place = Path(setup["place"])
    task = timed(task, profile, Path(setup["latencies"]))
    session = Session(Settings.of(profile, "the search"), task, baseline, place)
    evaluate = equipped(session, place, setup["cache"]).evaluator
    return lambda chain: records.to_data(evaluate(Chain.parse(chain)))


def _code(alphabet: str) -> dict[str, Any]:
    own = {each.letter for each in operators.OPERATORS}
    used = letters.versions({*own, *parsed(alphabet).letters})
    return {"torch": torch.__version__, **used, **VERSIONS}


def on_pool(pool: Pool) -> Workers:
    """Start the workers of a search as a pool of processes."""

    def begin(chain: Chain) -> Pending:
        job = pool.submit(str(chain))
        return lambda: records.from_data(Evaluation, job(), "a worker's row")

    return begin
