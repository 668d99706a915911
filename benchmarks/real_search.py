"""make bench-search, second part: real searches at equal trainings, the default searcher against `dqn` and `random`.

Every searcher gets 60 trainings on each of three seeds; a training that another searcher has run already is taken from
the memory and counts all the same. Compared is the hypervolume of the front over (validation accuracy in points, log2
BitOps ratio, log2 bytes ratio), counted from (baseline - 3.5 points, 1x, 1x). The default plans for what the profile's
objective says, the front; `dqn` learns from NAC's reward whatever the objective, `random` from nothing. Killed and
started again, it goes on.
"""

import argparse
import math
from itertools import accumulate
from pathlib import Path
from statistics import median

import moocore
import numpy as np

from nacdeploy import latency
from nacdeploy import profile as profiles
from nacdeploy.jobs.evaluator import Evaluator
from nacdeploy.jobs.session import Options, Session, open_session
from nacdeploy.progress import Silent
from nacdeploy.strategies.cache import DiskMemory
from nacdeploy.strategies.objective import Figures
from nacdeploy.strategies.objective import make as make_objective
from nacdeploy.strategies.search import engine, make_searcher
from nacdeploy.strategies.search.journal import Journal
from nacdeploy.strategies.search.result import SearchResult

PROFILE = Path(__file__).with_suffix(".toml")
FOLDER = Path("bench-run") / "real-search"
SEARCHERS = ("surrogate", "dqn", "random")


def searched(name: str, session: Session, folder: Path, n_trainings: int) -> SearchResult:
    """One search, or what is left of it."""
    profile, watch = session.profile, latency.Stopwatch()
    table, objective = profile.search, make_objective(profile.search)
    memory = DiskMemory.open(folder / "cache", session.task, profile, session.baseline)
    fingerprint = {"searcher": name, "profile": profile.model_dump(mode="json")}
    with Journal.open(folder / f"{name}.jsonl", fingerprint) as journal:
        found = engine.run(
            make_searcher(name, table, profile.seed, objective),
            engine.InProcess(Evaluator(session.baseline, session.task, profile, memory)),
            objective,
            table.rules,
            table.alphabet,
            engine.Limits(table.budget, n_trainings),
            journal,
            lambda progress: None,
        )
    print(f"{name}, seed {profile.seed}: {watch.seconds():.0f} s", flush=True)
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
    names = options.searchers.split(",")
    found: dict[str, list[SearchResult]] = {name: [] for name in names}
    for seed in range(options.seeds):
        profile = profiles.load(str(PROFILE), seed=seed)
        shared = Options(profile=str(PROFILE), seed=seed, runs=options.folder, wandb=False)
        session = open_session(shared, profile, profile.search.alphabet, Silent())
        for name in names:
            found[name].append(searched(name, session, options.folder / f"seed-{seed}", options.trainings))
    print(f"\n{latency.machine()}; {options.trainings} trainings each; hypervolume by seed\n")
    seeds = " | ".join(f"seed {seed}" for seed in range(options.seeds))
    early = f"median after {options.trainings // 3} trainings"
    print(f"| searcher | {seeds} | median | {early} | evaluations (trainings) |")
    print("|---" * (options.seeds + 4) + "|")
    for name in names:
        print(row(name, found[name], profile.search.max_drop, options.trainings))


if __name__ == "__main__":
    main()
