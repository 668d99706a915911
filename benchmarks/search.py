"""make bench-search: how many evaluations and trainings each searcher needs on nacbench, beside NAC's own counts.

`python benchmarks/search.py [--bench FOLDER] [--seeds N] [--searchers beam,dqn] [--tasks NAME,...]`. The searchers are
the product's own objects; only what they observe is replayed from NAC's published logs. Counts follow nacbench's
README: evaluations are distinct states, trainings distinct finetuned weights, both at the first admissible chain of
95 % of the best logged score; a search that never gets there counts twice its counts at the cap. NAC's counts are
read off the same logs: chains, and chains up to their last F, in the order its agent met them.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from nacdeploy.profile.tables.search import SearchTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.engine import MAX_REPEATS, Searcher
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.searchers import SEARCHERS, Experience, make_searcher

BENCH = Path(__file__).resolve().parents[2] / "shared" / "nacbench"
CAP = 600
SHARE = 0.95
DROP_LIMIT = 3.5
DRAWS = {"dqn", "random"}  # the others are deterministic: one seed says what ten would


@dataclass(frozen=True)
class Counts:
    """What it took to reach the goal; an unsolved search holds twice its counts at the cap."""

    n_evaluations: float
    n_trainings: float
    solved: bool
    seconds: float = 0.0


def table_of(env: Any, searcher: str) -> SearchTable:
    """A task of the bench as the settings of a search: NAC's objective and rules, nothing else."""
    rules = {"finetune_due": env.task.broken, "forced_factor": 1.5, "max_prunes": 20, "max_length": 66}
    return SearchTable(
        alphabet="FPEQ",
        searcher=searcher,
        budget=CAP,
        objective="nac",
        max_drop=env.drop_limit,
        nac_accuracy_weight=env.task.w_acc,
        rules=rules,
    )


def observe(env: Any, chain: Chain, bench: Any) -> Observation:
    """Evaluate a chain on the bench; the untouched model is given and counts nothing."""
    word = chain.word
    row = env.evaluate(word) if word else env.reset()[2]
    legal = () if env.terminal(word, row["drop"]) else env.mask(word, row["drop"])
    letters = tuple(letter for letter, valid in zip(bench.ACTIONS, legal, strict=False) if valid)
    figures = Figures(
        score=row["acc"] / 100.0,
        baseline_score=env.task.base / 100.0,
        bitops_ratio=row["bcr"],
        macs_ratio=row["bcr"] / bench.Q_BCR[word.count("Q")],
        bytes_ratio=row["mcr"],
        nac_bitops_ratio=row["bcr"],
        nac_memory_ratio=row["mcr"],
    )
    return Observation(chain, figures, row["score"], row["feasible"], letters, str(bench.canonical(word)))


def walk(searcher: Searcher, env: Any, bench: Any, goal: float = math.inf) -> list[Observation]:
    """Let a searcher walk until the goal or the cap; `env` counts. Every prefix of a proposed chain was evaluated."""
    seen: dict[str, Observation] = {}
    chain: Chain | None = Chain()
    n_repeats = 0
    while chain is not None and env.best < goal and len(env.seen_canon) < CAP and n_repeats < MAX_REPEATS:
        n_repeats = n_repeats + 1 if chain.word in seen else 0
        if chain.word and chain.word[-1] not in seen[chain.word[:-1]].legal:
            raise ValueError(f"illegal proposal {chain}")
        seen.setdefault(chain.word, observe(env, chain, bench))
        searcher.observe(seen[chain.word])
        chain = searcher.propose()
    return list(seen.values())


def counts_of(
    name: str, task: str, seed: int, bench: Any, noise: int | None = None, experience: Experience = ()
) -> Counts:
    """One search of one task."""
    env = bench.NacBench(task, drop_limit=DROP_LIMIT, noise=noise)
    start = time.process_time()
    goal = SHARE * env.best_known()["score"]
    walk(make_searcher(name, table_of(env, name), seed, experience=experience), env, bench, goal - 1e-9)
    seconds = time.process_time() - start
    hit = bench.curve_hits(env, goal)
    if hit is None:
        return Counts(2.0 * len(env.seen_canon), 2.0 * max(1, len(env.seen_finetune)), False, seconds)
    return Counts(max(1, hit[1]), max(1, hit[2]), True, seconds)


def warmed(name: str, tasks: list[str], bench: Any) -> dict[str, Counts]:
    """Each task searched with the experience of cold searches of all the others, as far as those went."""
    told = {}
    for task in tasks:
        env = bench.NacBench(task, drop_limit=DROP_LIMIT)
        goal = SHARE * env.best_known()["score"] - 1e-9
        told[task] = walk(make_searcher(name, table_of(env, name), 0), env, bench, goal)
    others = {task: [told[other] for other in tasks if other != task] for task in tasks}
    return {task: counts_of(name, task, 0, bench, experience=others[task]) for task in tasks}


def published(task: str, bench: Any) -> Counts:
    """What NAC's own agent needed, from the order in which its log holds the chains."""
    env = bench.NacBench(task, drop_limit=DROP_LIMIT)
    goal = SHARE * env.best_known()["score"] - 1e-9
    until = next(i for i, chain in enumerate(env.task.order, start=1) if _logged(env, chain) >= goal)
    trainings = {chain[: chain.rindex("F") + 1] for chain in env.task.order[:until] if "F" in chain}
    return Counts(until, max(1, len(trainings)), True)


def _logged(env: Any, chain: str) -> float:
    """The score of a logged chain; minus infinity where it lost too much."""
    accuracy, *ratios = env.task.log[chain]
    lost_too_much = env.task.base - accuracy > DROP_LIMIT + 1e-9
    return -math.inf if lost_too_much else env.task.score(accuracy, *ratios)


def typical(runs: list[Counts]) -> Counts:
    """The median of the seeds, count by count; solved where most are."""
    return Counts(
        median(run.n_evaluations for run in runs),
        median(run.n_trainings for run in runs),
        sum(run.solved for run in runs) * 2 > len(runs),
        max(run.seconds for run in runs),
    )


def row(name: str, found: dict[str, Counts], nac: dict[str, Counts]) -> str:
    """A line of the table: counts by task, and how many times fewer than NAC in the geometric mean."""
    cells = [f"{c.n_evaluations:g} ({c.n_trainings:g}){'' if c.solved else ' unsolved'}" for c in found.values()]
    fewer = [
        geometric_mean(getattr(nac[task], count) / getattr(found[task], count) for task in found)
        for count in ("n_evaluations", "n_trainings")
    ]
    solved = f"{sum(c.solved for c in found.values())} of {len(found)}"
    slowest = max(c.seconds for c in found.values())
    return "| " + " | ".join([name, *cells, solved, *(f"{x:.2f}x" for x in fewer), f"{slowest:.1f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, default=BENCH, help="the folder of nacbench.py")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--searchers", default=",".join(sorted(SEARCHERS)))
    parser.add_argument("--tasks", default="")
    options = parser.parse_args()
    if not (options.bench / "nacbench.py").is_file():
        sys.exit(f"{options.bench} holds no nacbench.py; name its folder with --bench")
    sys.path.insert(0, str(options.bench))
    import nacbench as bench

    tasks = options.tasks.split(",") if options.tasks else bench.tasks()
    nac = {task: published(task, bench) for task in tasks}
    print(
        f"evaluations (trainings) to {SHARE:.0%} of the best logged score, median of {options.seeds} seeds, cap {CAP}\n"
    )
    print("| searcher | " + " | ".join(tasks) + " | solved | fewer evaluations | fewer trainings | slowest, CPU s |")
    print("|---" * (len(tasks) + 5) + "|")
    print(row("NAC, published", nac, nac))
    for name in options.searchers.split(","):
        seeds = range(options.seeds if name in DRAWS else 1)
        found = {task: typical([counts_of(name, task, seed, bench) for seed in seeds]) for task in tasks}
        print(row(name, found, nac), flush=True)
        if name == "surrogate" and len(tasks) > 1:
            print(row("surrogate, warmed by the other tasks", warmed(name, tasks, bench), nac), flush=True)


if __name__ == "__main__":
    main()
