"""What is asked of each network of the table: its profile, the speeds, and the candidates of those who choose."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SMOKE = {  # everything runs and nothing is learnt: a minute or two
    "images": {"n_train": 256, "n_validation": 128, "n_test": 128},
    "train": {"epochs": 1},
    "finetune": {"epochs": 1},
    "settle": {"n_images": 128},
    "quantize": {"n_calibration": 32},
    "export": {"min_agreement": 0.5, "min_snr_db": 3.0},
}


@dataclass(frozen=True)
class Family:
    """Dense networks of one architecture by width, and the learning rates that validation chooses from; `recipe` are
    keys of the profile's [train]."""

    model: str
    widths: tuple[float, ...]
    rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """One network of the table.

    Attributes:
        name: that of its profile beside this file.
        model: in place of the profile's.
        speedups: times faster than the FP32 baseline, with the seeds that each is asked for: speeds that every row has
            a network for (on a Xeon with AVX512 the narrow networks of 12x spend their time on the call).
        families: of the dense small networks.
        others: dense small networks of another architecture, in a row of their own.
        weighs_dense: whether `search` would weigh the families too.
        ratios: of torch-pruning; time chooses which of them are trained.
        n_rounds: the baseline is trained at most so many times the profile's epochs.
        tables: keys that stand over the profile's.
    """

    name: str
    speedups: Mapping[float, tuple[int, ...]]
    families: tuple[Family, ...]
    ratios: tuple[float, ...]
    model: str | None = None
    n_rounds: int = 3
    others: tuple[Family, ...] = ()
    weighs_dense: bool = True
    tables: Mapping[str, Any] = field(default_factory=dict)


_RESNETS = (
    Family("resnet8", (4, 6, 8, 12, 16, 20, 24, 28, 32, 40)),
    Family("resnet20", (4, 6, 8, 12, 16, 20, 24)),
)
_SGD = {"optimizer": "sgd", "weight_decay": 5e-4}
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
PLANS = {
    plan.name: plan
    for plan in (
        Plan("resnet", {9.0: (0, 1, 2), 4.0: (0,)}, _RESNETS, _RATIOS),
        Plan(
            "mobilenet",
            {5.0: (0, 1, 2)},
            (Family("mobilenet_v2", (0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.5, 0.625, 0.75)),),
            _RATIOS,
            n_rounds=2,
            others=_RESNETS[:1],
        ),
        Plan(
            "lite0",
            {3.0: (0, 1, 2)},
            (replace(_RESNETS[0], recipe=_SGD, rates=(0.05,)),),  # as the first network's validation chose
            _RATIOS,
            model=f"{HERE / 'lite0.py'}:lite0",
            n_rounds=2,
            weighs_dense=False,
        ),
    )
}


def smoke(plan: Plan) -> Plan:
    """The same plan with tiny settings."""
    families = tuple(replace(family, widths=family.widths[:4], rates=family.rates[:2]) for family in plan.families)
    speedups = dict.fromkeys(list(plan.speedups)[:1], (0,))
    return replace(plan, families=families, speedups=speedups, ratios=plan.ratios[4::3], n_rounds=2, tables=SMOKE)
