"""How much faster two workers evaluate candidates than one: the ratio of wall times, each candidate on one thread.

`python benchmarks/workers.py [--workers 2] [--candidates 8] [--epochs 6]`. The candidates are chains `P(ratio=...)F`:
one training each, which is where the time of a search goes. Both numbers go through the same Ray, in turns, with an
empty memory and open sessions; their states are compared. The machine and its load are printed with the ratio: on a
machine that is busy otherwise it says nothing about scaling.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from nacdeploy import profile as profiles
from nacdeploy.base import latency
from nacdeploy.base.progress import Silent
from nacdeploy.profile.settings import Settings
from nacdeploy.sessions.options import Options, filled
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import Request
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.cluster import Cluster, ray_cluster
from nacdeploy.trials import candidates

PROFILE: dict[str, Any] = {
    "name": "workers",
    "model": "resnet8",
    "data": "digits",
    "width": 16,
    "images": {"n_train": 1000, "n_validation": 300, "input_size": 16},
    "train": {"epochs": 2, "learning_rate": 0.05, "batch_size": 64},
    "finetune": {"learning_rate": 0.01, "batch_size": 64, "schedule": "constant"},
    "prune": {"multiple": 1},
    "quantize": {"grid": "ort"},
}


def session_of(folder: Path, epochs: int) -> Session:
    """The session that all share; its baseline is trained once."""
    finetune = {**PROFILE["finetune"], "epochs": epochs, "early_stop_patience": epochs}
    settings = Settings.of(profiles.from_mapping({**PROFILE, "finetune": finetune}), __file__)
    return open_session(Request(filled(Options(runs=folder / "runs", wandb=False)), settings, "FP"), Silent())


def evaluated(session: Session, chains: list[Chain], cache: Path, cluster: Cluster) -> tuple[float, list[str]]:
    """The wall time for all chains once every worker is open, and the keys of their states."""
    with cluster.pool(candidates.opener(session, cache.parent, str(cache))) as pool:
        workers = candidates.on_pool(pool)
        for opened in [workers(Chain()) for _ in range(cluster.n_workers)]:
            opened()
        start = time.perf_counter()
        rows = [pending() for pending in [workers(chain) for chain in chains]]
        return time.perf_counter() - start, [row.state_key for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2, help="in turns; the best time of each number counts")
    given = parser.parse_args()
    chains = [Chain.parse(f"P(ratio={0.05 + 0.01 * n:.2f})F") for n in range(given.candidates)]
    times: dict[int, list[float]] = {1: [], given.workers: []}
    keys: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory() as name, ray_cluster(given.workers) as cluster:
        session = session_of(Path(name), given.epochs)
        for index in range(given.rounds):
            for n in times:
                cache = Path(name) / f"cache-{index}-{n}"
                seconds, found = evaluated(session, chains, cache, Cluster(n, cluster.has_gpus))
                times[n].append(seconds)
                keys.add(tuple(found))
                print(f"{n} worker(s): {seconds:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    ratio = min(times[1]) / min(times[given.workers])
    print(f"{len(chains)} trainings of {given.epochs} epochs; states {'the same' if len(keys) == 1 else 'DIFFER'}")
    print(f"{given.workers} workers against 1: {ratio:.2f}x on {latency.machine()}")


if __name__ == "__main__":
    main()
