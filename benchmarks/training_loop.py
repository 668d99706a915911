"""What our training loop costs beside a plain PyTorch loop, and what fake quantization adds.

`python benchmarks/training_loop.py [--rounds 7]`. The same network, batches, optimizer and memory layout, epochs of
each in turns, so that a machine that slows down changes no ratio; medians of ratios. Goals: at most 5 % with nothing
attached, at most 2x with every layer fake-quantized (w8a8).
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base.latency import machine
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.network import Network, lay_out
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.task import Task, training

NETWORKS = {"resnet20": (32, 64), "mobilenet_v2": (32, 16), "deit_tiny": (32, 16)}  # side of an image, batch
N_BATCHES = 8
RECIPE = TrainTable(epochs=1, learning_rate=0.01, schedule="constant")


def batches(task: Task, size: int) -> list[tuple[Any, Any]]:
    """Some batches in memory, so that reading costs neither way anything."""
    found = training.image_batches(task.data, task.data.train, size, 0)(1)
    return [batch for _, batch in zip(range(N_BATCHES), found, strict=False)]


def plain(module: nn.Module, given: list[tuple[Any, Any]]) -> Callable[[], None]:
    """A loop as a script has it: channels last, SGD, the loss looked at."""
    lay_out(module, torch.channels_last)
    matrices, vectors = ([p for p in module.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": RECIPE.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RECIPE.learning_rate, momentum=RECIPE.momentum)

    def epoch() -> None:
        module.train()
        for x, y in given:
            loss = functional.cross_entropy(module(x.contiguous(memory_format=torch.channels_last)), y)
            loss.item()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def ours(network: Network, given: list[tuple[Any, Any]]) -> Callable[[], None]:
    """Our loop whole, as F calls it, without the scoring that both would do."""
    return lambda: training.fit(network, lambda epoch: given, lambda: 0.0, ACCURACY, RECIPE, 0) and None


def timed(ways: dict[str, Callable[[], None]], n_rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(n_rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    chosen = parser.parse_args()
    print(f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    for name in chosen.networks:
        side, size = NETWORKS[name]
        images = {"n_train": N_BATCHES * size, "n_validation": 64, "n_test": 64, "input_size": side}
        profile = profiles.from_mapping({"name": "loop", "model": name, "data": "digits", "images": images})
        task = tasks.make(name, "digits", profile)
        state = initial_state(plain_network(task, profile), task)
        quantized = advance(state, Chain.parse("Q").links[0], task, profile)
        given = batches(task, size)
        ways = {
            "plain": plain(copy.deepcopy(state.network.backbone), given),
            "ours": ours(copy.deepcopy(state.network), given),
            "quantized": ours(copy.deepcopy(quantized.network), given),
        }
        found = timed(ways, chosen.rounds)
        ratios = {way: _ratio(found[way], found["plain"]) for way in ("ours", "quantized")}
        shown = ", ".join(f"{way} {ratio:.3f}x" for way, ratio in ratios.items())
        seconds = statistics.median(found["plain"])
        print(f"{name} at {side} px, batches of {size}: plain {seconds:.2f} s an epoch; {shown}", flush=True)


def _ratio(own: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, other, strict=True))


if __name__ == "__main__":
    main()
