"""Jobs that nacdeploy itself runs: a pool's worker, opened from plain data, answers as this process does."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.base.progress import Silent
from nacdeploy.experiments.config import grammar
from nacdeploy.experiments.driver.jobs import Attempt, Job
from nacdeploy.experiments.own_jobs import OwnWorker, PoolWorker, opened, setup_of
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Settings
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.task import Task

EXPERIMENT = {"compression": {"compressor": "l1", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}}


@dataclass(frozen=True)
class OneByOne:
    """A pool of this process: what passes in and out goes through JSON, as between processes."""

    run: Callable[[Any], Any]

    def __call__(self, job: Any) -> Callable[[], Any]:
        answer = json.loads(json.dumps(self.run(json.loads(json.dumps(job)))))
        return lambda: answer


def test_pool_answers_as_this_process(baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path) -> None:
    place = tmp_path / "baseline"
    with records.new_directory(place) as folder:
        checkpoints.write(folder, baseline, checkpoints.record_of(baseline, task, profile))
    session = Session(Settings.of(profile, "the test"), task, baseline, place)
    experiment = grammar.read(EXPERIMENT).experiment
    pool = PoolWorker(OneByOne(opened(json.loads(json.dumps(setup_of(EXPERIMENT, session))))))

    def attempt(name: str, worker: Any) -> Attempt:
        seen: list[float] = []
        job = Job(0, experiment.filled({}), tmp_path / name)
        (found,) = worker([job], lambda job, step, value: seen.append(value))
        assert tuple(seen) == found.intermediates
        assert checkpoints.is_checkpoint(tmp_path / name / "model")
        return found

    ours, theirs = attempt("ours", OwnWorker(experiment, session, Silent())), attempt("theirs", pool)
    assert (ours.value, ours.intermediates, ours.chain) == (theirs.value, theirs.intermediates, theirs.chain)
