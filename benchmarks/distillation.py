"""make bench-distill: a strongly pruned ResNet8 on the digits, trained by labels, by its FP32 network, and by both.

The teacher has seen all labels; F sees all images, or a fifth of them five times as often. Accuracies are of the test
split. Two learning rates, since the teacher's part has the larger gradient.
"""

import time
from dataclasses import replace
from itertools import product
from statistics import mean

import torch

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.data import ImageSet
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import initial_state, plain_network, train_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

SEEDS = (0, 1, 2)
CUTS = ("P(ratio=0.75)", "P(ratio=0.75)Q")
WEIGHTS = (0, 0.5, 1)
SHARES = (1.0, 0.2)
RATES = (0.03, 0.01)
EPOCHS = 10
TABLES = {
    "width": 16,
    "images": {"augment": "shift"},
    "train": {"epochs": 20, "learning_rate": 0.05, "batch_size": 64},
    "finetune": {"batch_size": 64, "schedule": "cosine", "early_stop_patience": None},
    "prune": {"multiple": 2},
    "quantize": {"min_channels": 1, "ladder": ["w4a8"]},
}


def main() -> None:
    torch.set_num_threads(1)
    begun = time.monotonic()
    print("| cut | images of F | rate | distill | test accuracy % by seed | mean | answers as the teacher, % |")
    print("|---|---|---|---|---|---|---|")
    starts = [_start(seed) for seed in SEEDS]
    teachers = [100 * measure(state.network, task, "test").score for task, _, state in starts]
    print(f"| FP32 | | | | {_listed(teachers)} | |")
    for cut, share, rate, weight in product(CUTS, SHARES, RATES, WEIGHTS):
        letter = f"F(distill={weight:g},learning_rate={rate},epochs={round(EPOCHS / share)})"
        found = [_figures(*start, cut + letter, share) for start in starts]
        scores, agreed = ([100 * figures[i] for figures in found] for i in (0, 1))
        row = f"| `{cut}` | {share:.0%} | {rate} | {weight:g} | {_listed(scores)} | {mean(agreed):.2f} |"
        print(row, flush=True)
    print(f"{time.monotonic() - begun:.0f} s")


def _start(seed: int) -> tuple[Task, Profile, CompressionState]:
    profile = profiles.from_mapping({"name": "distill", "model": "resnet8", "data": "digits", "seed": seed, **TABLES})
    task = tasks.make(profile.model, profile.data, profile)
    network = plain_network(task, profile)
    train_network(network, task, profile.train, profile.seed)
    return task, profile, initial_state(network, task)


def _figures(task: Task, profile: Profile, start: CompressionState, chain: str, share: float) -> tuple[float, float]:
    """The accuracy on test after the chain, and how often its answer is the teacher's."""
    few = task.data.train.subset(torch.arange(round(share * len(task.data.train))))
    seen = replace(task, data=replace(task.data, train=ImageSet(few.whole(), few.labels)))
    state = follow(Chain.parse(chain), start, seen, profile).state
    ours, theirs = (evaluation.predict(s.network, task.data, task.data.test).argmax(1) for s in (state, start))
    return measure(state.network, task, "test").score, float((ours == theirs).double().mean())


def _listed(scores: list[float]) -> str:
    return f"{', '.join(f'{score:.2f}' for score in scores)} | {mean(scores):.2f}"


if __name__ == "__main__":
    main()
