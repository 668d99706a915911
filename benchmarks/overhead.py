"""What a search costs besides training, evaluation and measurement: share of wall time, and memory.

`python benchmarks/overhead.py [--budget 16]`. A real search of one process on digits. Time: the functions that train,
evaluate, measure, settle and operate are clocked, and apart from them the analysis of what may be done next (refusals);
overhead is the rest of the search's wall time: searcher, journal, memory, hashes. Memory: how far the peak of the
process rises over the one that following one chain with every letter has reached before, without a search.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nacdeploy import profile as profiles
from nacdeploy.base import latency
from nacdeploy.base.progress import Silent
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.session import open_session
from nacdeploy.sessions.setup import wanted
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.search import engine, objective
from nacdeploy.strategies.search.journal import Journal
from nacdeploy.strategies.search.searchers import make_searcher
from nacdeploy.strategies.steps import advance, follow, letters
from nacdeploy.task import evaluate, training
from nacdeploy.trials.evaluator import Evaluator

LIMIT_PERCENT, LIMIT_MIB = 2.0, 200.0


class Clocks:
    """Time by label; what runs within a clocked call counts for the outer one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._depth = 0

    def clock(self, owner: Any, name: str, label: str) -> None:
        """Time every call of a function where it is looked up."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **others: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*arguments, **others)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - start

        setattr(owner, name, timed)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=16)
    parser.add_argument("--profile", default="demo")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        options = Options(profile=given.profile, runs=Path(name) / "runs", wandb=False)
        request = wanted(options, search={"budget": given.budget})
        session = open_session(replace(request, letters=request.settings.profile.search.alphabet), Silent())
        profile, table = session.profile, session.profile.search
        follow.follow(Chain.parse("PQEF"), session.baseline, session.task, profile)
        before_mib, clocks = peak_mib(), Clocks()
        clocks.clock(training, "fit", "training")
        clocks.clock(advance, "measure", "evaluation and measurement")
        clocks.clock(evaluate, "predict", "evaluation and measurement")
        clocks.clock(advance, "settle", "surgery and settling")
        clocks.clock(advance, "calibrate_gates", "surgery and settling")
        clocks.clock(advance, "_train_heads", "training")
        for operator in map(letters.kind, profiles.letters()):
            clocks.clock(operator, "decide", "surgery and settling")
            clocks.clock(operator, "perform", "surgery and settling")
            clocks.clock(operator, "refusal", "refusals")
        searcher = make_searcher(table.searcher, table, profile.seed)
        for owner, method, label in (
            (type(searcher), "propose", "searcher"),
            (type(searcher), "observe", "searcher"),
            (Journal, "append", "journal"),
            (DiskMemory, "remember", "memory"),
            (DiskMemory, "recall", "memory"),
        ):
            clocks.clock(owner, method, f"overhead, {label}")
        memory = DiskMemory.open(Path(name) / "cache", session.task, profile, session.baseline)
        evaluator = Evaluator(session.baseline, session.task, profile, memory)
        start = time.perf_counter()
        with Journal.open(Path(name) / "journal.jsonl", {}) as journal:
            found = engine.run(
                searcher,
                engine.in_process(evaluator),
                objective.make(table),
                table.rules,
                table.alphabet,
                engine.Limits(table.budget),
                journal,
                lambda progress: None,
            )
        wall = time.perf_counter() - start
    print(f"{len(found.evaluations) - 1} evaluations, {found.n_trainings} trainings in {wall:.1f} s")
    for label, seconds in clocks.seconds.items():
        print(f"{label}: {seconds:.2f} s, {100 * seconds / wall:.1f} %")
    work = sum(seconds for label, seconds in clocks.seconds.items() if not label.startswith("overhead"))
    overhead = 100 * (1 - work / wall)
    print(f"overhead: {overhead:.2f} % of wall time (aim: under {LIMIT_PERCENT:g} %)")
    print(f"memory: {peak_mib() - before_mib:.0f} MiB more at the peak than one chain (aim: under {LIMIT_MIB:g} MiB)")
    print(latency.machine())


if __name__ == "__main__":
    main()
