"""A guard that refuses a letter that destroys a network, and names the layer that loses the signal.

An intended effect is not destruction: P and S write zeros, few bits round coarsely, and F repairs both. An exit leaves
the network's own end unchanged, bit for bit; eight bits leave a signal; every network answers with numbers.
"""

from typing import Any

import torch
from torch import Tensor

from nacdeploy.base.errors import RefusedError
from nacdeploy.metrics import Metric
from nacdeploy.network.captured.decibels import snr_db
from nacdeploy.network.captured.graph import stack
from nacdeploy.network.network import Network, Simulation, no_grad_eval
from nacdeploy.strategies.operators.base import Operator, kept_by
from nacdeploy.strategies.settle import calibration_images, unquantized
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

N_IMAGES = 32
N_TAPPED = 4
N_AT_ONCE = 8
LEAST_BITS = 8
LEAST_DB = 6.0
LEAST_AGREEMENT = 0.5
LOST_DB = 10.0


def check(operator: Operator[Any], former: Network, network: Network, task: Task) -> None:
    """Compare a network with the network before a letter, on calibration images.

    Raises:
        RefusedError: the letter destroyed it; the text names the layer and what would work.
    """
    name = f"{operator.letter} ({operator.name})"
    with no_grad_eval(network), no_grad_eval(former), evaluation.accelerated(network) as device:
        is_rounded = kept_by(operator) == "signal" and _n_bits(network) >= LEAST_BITS
        n_images = N_IMAGES if is_rounded else N_TAPPED
        x = next(evaluation.batches(task.data, calibration_images(task.data, n_images), n_images, device))
        answer = _answers(network, x)
        if not torch.isfinite(answer).all():
            raise RefusedError(f"{name} leaves a network whose answers are not finite numbers")
        if kept_by(operator) == "end" and not torch.equal(answer.cpu(), _answer(former, x)):
            raise RefusedError(f"{name} changes what the network's own end answers")
        if is_rounded:
            _check_rounding(name, unquantized(former).to(device), network, x, answer, task.metric)


def _check_rounding(name: str, exact: Network, network: Network, x: Tensor, answer: Tensor, metric: Metric) -> None:
    expected = _answers(exact, x)
    ratio_db, kept = snr_db(expected, answer), float(metric.agrees(expected, answer).double().mean())
    if ratio_db < LEAST_DB and kept < LEAST_AGREEMENT:
        layer = _first_lost(exact, network, x[:N_TAPPED])
        raise RefusedError(
            f"{name} destroys the network: signal to noise {ratio_db:.1f} dB, {100 * kept:.0f} % of {len(x)} images "
            f"keep their {metric.answer[0]}; the first to fall below {LOST_DB:g} dB is '{layer}'; quantize.exclude = "
            f"['{layer}'] leaves it in float, and quantize.calibration = 'mse' finds other ranges"
        )


def _first_lost(exact: Network, network: Network, x: Tensor) -> str:
    """Return the module (or node) of the first tensor that is further from the exact network's than `LOST_DB`."""
    if network.graph is None:
        return "the network"
    wanted, found = _values(exact, x), _values(network, x)
    for node in network.graph.nodes:
        if node.name in wanted and snr_db(wanted[node.name], found[node.name]) < LOST_DB:
            return (stack(node) or [node.name])[-1]
    return "the network"


def _values(network: Network, x: Tensor) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}

    def keep(node: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.is_floating_point():
            values[node] = value

    network.run(x, Simulation(network), keep)
    return values


def _n_bits(network: Network) -> int:
    return min([*network.plan.weight_bits.values(), *network.plan.activation_bits.values()], default=0)


def _answer(network: Network, x: Tensor) -> Tensor:
    with evaluation.accelerated(network):
        return _answers(network, x).cpu()


def _answers(network: Network, x: Tensor) -> Tensor:
    """Return the answers to some images, few of them at once: large ones lead to large tensors."""
    return torch.cat([network(part) for part in x.split(N_AT_ONCE)])
