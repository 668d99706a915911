"""Early stop: whether a job whose intermediate result falls behind the others' is worth going on with."""

from collections.abc import Mapping, Sequence
from statistics import median

from nacdeploy.experiments.config.grammar import EarlyStop


def falls_behind(
    policy: EarlyStop, step: int, value: float, others: Sequence[Mapping[int, float]], target: str
) -> bool:
    """Tell whether a job ends at `step` (from 1) with an intermediate `value`.

    Args:
        others: the intermediate values by step of the other jobs; those that did not get as far do not count.
        target: "max" or "min".
    """
    sign = 1.0 if target == "max" else -1.0
    seen = sorted(sign * other[step] for other in others if step in other)
    if step <= policy.warmup or step % policy.aup_policy_steps or not seen:
        return False
    ours = sign * value
    if policy.aup_policy == "median":
        return ours < median(seen)
    if policy.aup_policy == "bandit":
        return ours < seen[-1] - policy.bandit_factor * abs(seen[-1])
    if policy.aup_policy == "truncation":
        n_worse = sum(other < ours for other in seen)
        return n_worse < int(policy.truncation_percentage * (len(seen) + 1))
    return False
