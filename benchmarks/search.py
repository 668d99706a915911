"""make bench-search: how many evaluations and trainings each searcher needs on nacbench, beside NAC's own counts.

`python benchmarks/search.py [--bench FOLDER] [--draws N] [--limits 2,3.5] [--searchers beam,dqn] [--tasks A,B]`. The
searchers are the product's own objects; only what they observe is replayed from NAC's published logs. Every draw is a
seed of the searcher and of the bench's noise: states that are not in the logs are modelled, and each draw adds errors
of the model's measured size. Counts follow nacbench's README: evaluations are distinct states, trainings distinct
finetuned weights, both at the first admissible chain of 95 % of the best logged score. A search that never gets there
counts twice its counts at the cap; one that ends before the cap, as if all that it left had been evaluated and trained.
NAC's counts are read off the same logs: chains, and chains up to their last F, in the order its agent met them.
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
LIMITS = "2,2.5,3,3.5,4,5"


@dataclass(frozen=True)
class Counts:
    """What it took to reach the goal; an unsolved search holds twice its counts at the cap. `solved` is a share."""

    n_evaluations: float
    n_trainings: float
    solved: float = 1.0
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


def counts_of(name: str, task: str, limit: float, draw: int, bench: Any, experience: Experience = ()) -> Counts:
    """One search of one task."""
    env = bench.NacBench(task, drop_limit=limit, noise=draw)
    start = time.process_time()
    goal = goal_of(env)
    walk(make_searcher(name, table_of(env, name), draw, experience=experience), env, bench, goal)
    seconds = time.process_time() - start
    hit = bench.curve_hits(env, goal)
    if hit is None:
        return unsolved(len(env.seen_canon), len(env.seen_finetune), seconds)
    return Counts(max(1, hit[1]), max(1, hit[2]), 1.0, seconds)


def unsolved(n_evaluations: int, n_trainings: int, seconds: float = 0.0) -> Counts:
    """Twice the counts at the cap; of a search that ended before it, all that it left counts as if trained."""
    n_left = max(0, CAP - n_evaluations)
    return Counts(2.0 * CAP, 2.0 * max(1, n_trainings + n_left), 0.0, seconds)


def goal_of(env: Any) -> float:
    """The score to reach."""
    return float(SHARE * env.best_known()["score"] - 1e-9)


def warmed(name: str, tasks: list[str], limit: float, draw: int, bench: Any) -> dict[str, Counts]:
    """Each task searched with the experience of cold searches of all the others, as far as those went."""
    told = {}
    for task in tasks:
        env = bench.NacBench(task, drop_limit=limit, noise=draw)
        told[task] = walk(make_searcher(name, table_of(env, name), draw), env, bench, goal_of(env))
    others = {task: [told[other] for other in tasks if other != task] for task in tasks}
    return {task: counts_of(name, task, limit, draw, bench, others[task]) for task in tasks}


def published(task: str, limit: float, bench: Any) -> Counts:
    """What NAC's own agent needed, from the order in which its log holds the chains."""
    env = bench.NacBench(task, drop_limit=limit)
    goal = goal_of(env)
    until = next(i for i, chain in enumerate(env.task.order, start=1) if _logged(env, chain) >= goal)
    trainings = {chain[: chain.rindex("F") + 1] for chain in env.task.order[:until] if "F" in chain}
    return Counts(until, max(1, len(trainings)))


def _logged(env: Any, chain: str) -> float:
    """The score of a logged chain; minus infinity where it lost too much."""
    accuracy, *ratios = env.task.log[chain]
    lost_too_much = env.task.base - accuracy > env.drop_limit + 1e-9
    return -math.inf if lost_too_much else env.task.score(accuracy, *ratios)


def typical(runs: list[Counts]) -> Counts:
    """The median of the draws, count by count, and the share of them that were solved."""
    return Counts(
        median(run.n_evaluations for run in runs),
        median(run.n_trainings for run in runs),
        sum(run.solved for run in runs) / len(runs),
        max(run.seconds for run in runs),
    )


def row(name: str, found: dict[str, Counts], nac: dict[str, Counts]) -> str:
    """A line of the table: counts by task, and how many times fewer than NAC in the geometric mean."""
    fewer = [
        geometric_mean(getattr(nac[task], count) / getattr(found[task], count) for task in found)
        for count in ("n_evaluations", "n_trainings")
    ]
    solved = f"{sum(c.solved > 0.5 for c in found.values())} of {len(found)}"
    slowest = max(c.seconds for c in found.values())
    return (
        "| "
        + " | ".join([name, *map(cell, found.values()), solved, *(f"{x:.2f}x" for x in fewer), f"{slowest:.0f}"])
        + " |"
    )


def cell(counts: Counts) -> str:
    """A task's counts; where some draws were not solved, the share that was."""
    share = "" if counts.solved == 1.0 else f", {counts.solved:.0%} solved"
    return f"{counts.n_evaluations:g} ({counts.n_trainings:g}){share}"


def table(limit: float, tasks: list[str], searchers: list[str], n_draws: int, bench: Any) -> None:
    """Print the counts at one drop limit."""
    nac = {task: published(task, limit, bench) for task in tasks}
    print(f"\nat most {limit:g} points lost\n")
    print("| searcher | " + " | ".join(tasks) + " | solved | fewer evaluations | fewer trainings | slowest, CPU s |")
    print("|---" * (len(tasks) + 5) + "|")
    print(row("NAC, published", nac, nac))
    for name in searchers:
        cold, _, warm = name.partition("+")
        runs = [
            warmed(cold, tasks, limit, draw, bench)
            if warm
            else {task: counts_of(name, task, limit, draw, bench) for task in tasks}
            for draw in range(n_draws)
        ]
        print(row(name, {task: typical([run[task] for run in runs]) for task in tasks}, nac), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, default=BENCH, help="the folder of nacbench.py")
    parser.add_argument("--draws", type=int, default=10, help="of seed and noise; the table shows their median")
    parser.add_argument("--limits", default=LIMITS, help="the points that an answer may lose, a table for each")
    parser.add_argument(
        "--searchers", default=",".join(sorted(SEARCHERS)), help="surrogate+others: told of the other tasks"
    )
    parser.add_argument("--tasks", default="")
    options = parser.parse_args()
    if not (options.bench / "nacbench.py").is_file():
        sys.exit(f"{options.bench} holds no nacbench.py; name its folder with --bench")
    sys.path.insert(0, str(options.bench))
    import nacbench as bench

    tasks = options.tasks.split(",") if options.tasks else bench.tasks()
    print(
        f"evaluations (trainings) to {SHARE:.0%} of the best logged score, median of {options.draws} draws, cap {CAP}"
    )
    for limit in map(float, options.limits.split(",")):
        table(limit, tasks, options.searchers.split(","), options.draws, bench)


if __name__ == "__main__":
    main()
