"""Whether Q equalizes channels first, and how far: by the answers of the network in integers."""

import copy

import torch
from torch import Tensor

from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.strategies.calibration import calibrate_ranges
from nacdeploy.strategies.operators.quantize.equalize import IMAGES_AT_ONCE, equalize, imbalance, magnitudes
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibration_batch, calibration_images, unquantized
from nacdeploy.task import Task

SHARES = (0.5, 0.75, 1.0)
STRIKING = 32.0  # a quotient of factors, from which on "auto" looks closer
N_IMAGES = 32
CLEARLY = 0.8  # of an error: a decibel


def share_of(network: Network, rule: Rule, table: QuantizeTable, task: Task) -> float | None:
    """Return the share of the differences between channels' activations that goes into weights, or None if integers
    answer no clearly better with it. A network that is quantized already stays as it is."""
    if table.equalize == "off" or network.rule is not None or network.graph is None:
        return None
    whole = copy.deepcopy(network)
    whole.quantize(rule)
    x = calibration_batch(task)
    values = magnitudes(whole, x)
    if table.equalize != "on" and imbalance(whole, values) < STRIKING:
        return None
    wanted = _answers(unquantized(whole), x)
    best, least = None, _error(whole, None, x, wanted, table, task)
    for share in SHARES:
        now = _error(whole, share, x, wanted, table, task)
        if now < (CLEARLY if best is None else 1.0) * least:
            best, least = share, now
    return best


def apply(network: Network, share: float, task: Task) -> None:
    """Equalize a quantized network in place."""
    equalize(network, magnitudes(network, calibration_batch(task)), share)


def _error(network: Network, share: float | None, x: Tensor, wanted: Tensor, table: QuantizeTable, task: Task) -> float:
    tried = copy.deepcopy(network)
    if share is not None:
        apply(tried, share, task)
    quick = table.model_copy(update={"calibration": "auto"}) if table.calibration == "answers" else table
    calibrate_ranges(tried, task.data, calibration_images(task.data, N_IMAGES), quick)
    return float((_answers(tried, x) - wanted).double().square().sum())


def _answers(network: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network.eval()(part) for part in x.split(IMAGES_AT_ONCE)])
