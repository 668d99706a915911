"""Networks of several environments timed in one interleaved run: a worker process each, nacdeploy's statistics."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import HERE, python_of
from benchmarks.peers.results import Row
from nacdeploy.base import latency
from nacdeploy.base.latency import Comparison
from nacdeploy.data import Dataset, ImageSet


@dataclass(frozen=True)
class Subject:
    """A model file, what runs it, and in whose environment."""

    name: str
    kind: str
    path: Path
    runtime: str = "onnxruntime"
    environment: str = "own"
    settings: Mapping[str, str] = field(default_factory=dict)
    n_epochs: int = 0

    @property
    def n_bytes(self) -> int:
        """The model file, and the weights that OpenVINO keeps beside it."""
        weights = self.path.with_suffix(".bin")
        return self.path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)


@dataclass(frozen=True)
class Images:
    """A split's normalised images as .npy, and the labels (N,) that answers are scored by."""

    path: Path
    labels: np.ndarray

    @property
    def first(self) -> Path:
        """Its first image alone, which is what is timed."""
        return self.path.with_suffix(".one.npy")


class Worker:
    """A process that runs models in an environment."""

    def __init__(self, python: Path) -> None:
        command = [str(python), str(HERE / "worker.py")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            RuntimeError: the runtime refuses, or the process is gone.
        """
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '{"error": "the worker has ended"}')
        if "error" in answer:
            raise RuntimeError(f"{request['name']}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class WorkClock:
    """The time that the workers say their calls took; the way to them and back does not count."""

    def __init__(self) -> None:
        self._now_ns = 0

    def __call__(self) -> int:
        return self._now_ns

    def call(self, worker: Worker, name: str, fastest: bool = False) -> Callable[[], None]:
        """A short turn of a model, counted as one call of it, as a subject of `latency.compare`."""

        def timed() -> None:
            self._now_ns += worker.ask(do="turn", name=name, fastest=fastest)["ns"]

        return timed


@contextmanager
def loaded(subjects: Sequence[Subject], folder: Path, image: Path) -> Iterator[dict[str, Worker]]:
    """The worker of each subject, by its name, with all models open; `image` (.npy) is what they are called with."""
    workers = {e: Worker(python_of(e, folder)) for e in dict.fromkeys(s.environment for s in subjects)}
    try:
        for s in subjects:
            request = {"path": str(s.path), "runtime": s.runtime, "settings": dict(s.settings), "image": str(image)}
            workers[s.environment].ask(do="load", name=s.name, **request)
        yield {s.name: workers[s.environment] for s in subjects}
    finally:
        for worker in workers.values():
            worker.close()


def compare(
    workers: Mapping[str, Worker], baseline: str, *, n_rounds: int = 40, round_ms: float = 3.0, fastest: bool = False
) -> Comparison:
    """All subjects timed in turns, batch 1, 1 thread; with `fastest` a turn counts by its fastest call, so that what
    other processes take away does not."""
    clock = WorkClock()
    calls = {name: clock.call(worker, name, fastest) for name, worker in workers.items()}
    how: dict[str, Any] = {"n_rounds": n_rounds, "round_ms": round_ms, "fastest": fastest, "clock": clock}
    return latency.compare(calls, baseline=baseline, batch_size=1, threads=1, **how)


def accuracy(worker: Worker, name: str, images: Images) -> float:
    """The accuracy (a fraction) of the session that is timed."""
    out = images.path.with_suffix(".answers.npy")
    worker.ask(do="predict", name=name, images=str(images.path), out=str(out))
    return float((np.load(out).argmax(1) == images.labels).mean())


def written(path: Path, data: Dataset, images: ImageSet) -> Images:
    """Images as every network is given them."""
    pictures, found = data.normalize(images.images).numpy(), Images(path.absolute(), images.labels.numpy())
    np.save(found.path, pictures)
    np.save(found.first, pictures[:1])
    return found


def measured(subjects: Sequence[Subject], folder: Path, validation: Images) -> list[Row]:
    """Validation accuracy and time of the same sessions, all subjects in one interleaved run; ratios to the first."""
    with loaded(subjects, folder, validation.first) as workers:
        accuracies = [accuracy(workers[s.name], s.name, validation) for s in subjects]
        compared = compare(workers, subjects[0].name)
    return [
        Row(
            name=s.name,
            kind=s.kind,
            validation_accuracy=right,
            test_accuracy=None,
            n_bytes=s.n_bytes,
            p50_ms=compared.latencies[s.name].p50_ms,
            speed=compared.ratios[s.name],
            n_epochs=s.n_epochs,
        )
        for s, right in zip(subjects, accuracies, strict=True)
    ]


def scored(rows: Sequence[Row], subjects: Sequence[Subject], folder: Path, test: Images) -> list[Row]:
    """The rows, those of `subjects` with their accuracy on the test split."""
    with loaded(subjects, folder, test.first) as workers:
        accuracies = {s.name: accuracy(workers[s.name], s.name, test) for s in subjects}
    return [replace(row, test_accuracy=accuracies.get(row.name)) for row in rows]
