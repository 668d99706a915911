"""make bench-search, second part: real searches at equal trainings, the default searcher against `dqn` and `random`.

Every searcher gets 60 trainings on each of three seeds; a training that another searcher has run already is taken from
the memory and counts all the same. Compared is the hypervolume of the front over (validation accuracy in points, log2
BitOps ratio, log2 bytes ratio), counted from (baseline - 3.5 points, 1x, 1x). The default plans for what the profile's
objective says, the front; `dqn` learns from NAC's reward whatever the objective, `random` from nothing. As many
searches at once as there are cores, one thread each. Killed and started again, it goes on.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import moocore
import numpy as np

from nacdeploy.base import latency
from nacdeploy.base.progress import Silent
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import wanted
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.search import engine
from nacdeploy.strategies.search.journal import Journal
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.objective import make as make_objective
from nacdeploy.strategies.search.search_result import SearchResult
from nacdeploy.strategies.search.searchers import make_searcher
from nacdeploy.trials.evaluator import Evaluator

PROFILE = Path(__file__).with_suffix(".toml")
FOLDER = Path("bench-run") / "real-search"
SEARCHERS = ("surrogate", "dqn", "random")


def session_of(seed: int, folder: Path) -> Session:
    """The task and its baseline, which is trained where it is not there."""
    request = wanted(Options(profile=str(PROFILE), seed=seed, runs=folder, wandb=False))
    letters = request.settings.profile.search.alphabet
    return open_session(replace(request, letters=letters), Silent())


def searched(name: str, seed: int, runs: Path, n_trainings: int) -> SearchResult:
    """One search, or what is left of it."""
    session, folder = session_of(seed, runs), runs / f"seed-{seed}"
    profile, watch = session.profile, latency.Stopwatch()
    table, objective = profile.search, make_objective(profile.search)
    memory = DiskMemory.open(folder / "cache", session.task, profile, session.baseline)
    fingerprint = {"searcher": name, "profile": profile.model_dump(mode="json")}
    with Journal.open(folder / f"{name}.jsonl", fingerprint) as journal:
        found = engine.run(
            make_searcher(name, table, profile.seed, objective),
            engine.in_process(Evaluator(session.baseline, session.task, profile, memory)),
            objective,
            table.rules,
            table.alphabet,
            engine.Limits(table.budget, n_trainings),
            journal,
            lambda progress: None,
        )
    print(f"{name}, seed {seed}: {watch.seconds():.0f} s", flush=True)
    return found


def hypervolume(found: SearchResult, max_drop: float, n_trainings: float = math.inf) -> float:
    """The volume that the chains within `max_drop` dominate: points x log2 BitOps ratio x log2 bytes ratio; of those up
    to so many trainings."""
    trained = accumulate(e.trained for e in found.evaluations)
    rows = (e.figures for e, n in zip(found.evaluations, trained, strict=True) if n <= n_trainings)
    figures = [f for f in rows if f and f.drop_points <= max_drop]
    return float(moocore.hypervolume(-np.array([_point(f, max_drop) for f in figures]), ref=[0.0, 0.0, 0.0]))


def _point(figures: Figures, max_drop: float) -> tuple[float, float, float]:
    bitops, size = (max(0.0, math.log2(x)) for x in (figures.bitops_ratio, figures.bytes_ratio))
    return max_drop - figures.drop_points, bitops, size


def row(name: str, results: list[SearchResult], max_drop: float, n_trainings: int) -> str:
    """A line of the table."""
    volumes = [hypervolume(found, max_drop) for found in results]
    early = median(hypervolume(found, max_drop, n_trainings // 3) for found in results)
    counts = [f"{len(r.evaluations) - 1} ({r.n_trainings})" for r in results]
    cells = [name, *(f"{v:.1f}" for v in volumes), f"**{median(volumes):.1f}**", f"{early:.1f}", ", ".join(counts)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searchers", default=",".join(SEARCHERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    names, seeds = options.searchers.split(","), range(options.seeds)
    sessions = [session_of(seed, options.folder) for seed in seeds]  # which trains their baselines
    limit = sessions[0].profile.search.max_drop
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = {
            (name, seed): pool.submit(searched, name, seed, options.folder, options.trainings)
            for seed in seeds
            for name in names
        }
        found = {name: [jobs[name, seed].result() for seed in seeds] for name in names}
    print(f"\n{latency.machine()}; {options.trainings} trainings each; hypervolume by seed\n")
    by_seed = " | ".join(f"seed {seed}" for seed in seeds)
    early = f"median after {options.trainings // 3} trainings"
    print(f"| searcher | {by_seed} | median | {early} | evaluations (trainings) |")
    print("|---" * (options.seeds + 4) + "|")
    for name in names:
        print(row(name, found[name], limit, options.trainings))


if __name__ == "__main__":
    main()
