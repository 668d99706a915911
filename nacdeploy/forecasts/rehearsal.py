"""Rehearsal: a chain followed with a small part of the images, so that its end is seen before it is paid for.

Every letter decides, cuts, settles and trains as it will, on the network itself: what follows from structure (size,
BitOps, time) comes out as it will be, up to channels that a longer training would choose otherwise. Only what training
gives is less than it will be: an eighth of the images, in batches of a quarter of the size, is half of the steps. The
test split is never looked at.
"""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from nacdeploy.data import Dataset
from nacdeploy.profile import Profile, override
from nacdeploy.strategies.baseline import initial_state
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.state import CompressionState, Metrics
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.task import Task

SHARE = 0.125  # of the training images
N_LEAST = 256  # training images, if there are so many
N_VALIDATION = 1000  # validation images at most
_SMALLER, _LEAST_BATCH = 4, 8  # batches, for more steps at the same cost


@dataclass(frozen=True)
class Stage:
    """One letter of a rehearsal or of a run, and the points of quality that were lost when it was done."""

    link: str
    lost: float


@dataclass(frozen=True)
class Rehearsed:
    """The end of a rehearsal.

    Attributes:
        state: the network at the end, with its costs; its baseline was scored on the same images.
        stages: what was lost after each letter.
        n_images: the training images that it used.
    """

    state: CompressionState
    stages: tuple[Stage, ...]
    n_images: int

    @property
    def lost(self) -> float:
        """The points of quality that were lost in the end."""
        return lost(self.state.baseline, self.state.metrics)


def rehearsed(
    chain: Chain, baseline: CompressionState, task: Task, profile: Profile, skip_refused: bool = False
) -> Rehearsed:
    """Follow a chain on a part of the images.

    Raises:
        RefusedError: a letter does not apply, without `skip_refused`.
    """
    small, stages = in_small(task), list[Stage]()
    batch_size = profile.of(FinetuneTable).batch_size
    often = {"batch_size": min(batch_size, max(_LEAST_BATCH, batch_size // _SMALLER)), "processes": 1}

    def noted(state: CompressionState) -> None:
        stages.append(Stage(str(state.steps[-1].link), lost(state.baseline, state.metrics)))

    start = initial_state(baseline.network, small)
    done = follow(chain, start, small, override(profile, {"finetune": often}), skip_refused=skip_refused, after=noted)
    return Rehearsed(done.state, tuple(stages), len(small.data.train))


def in_small(task: Task) -> Task:
    """Return the task with an eighth of the training images, and some validation images, drawn."""
    data = task.data
    n_train = min(len(data.train), max(round(SHARE * len(data.train)), N_LEAST))
    n_validation = min(len(data.validation), N_VALIDATION)
    train, validation = (
        images.drawn(n, data.split_seed) for images, n in ((data.train, n_train), (data.validation, n_validation))
    )
    return replace(task, data=replace(data, train=train, validation=validation, epochs=_first(data, n_train)))


def _first(data: Dataset, n_samples: int) -> Any:
    """Return epochs of so many samples of a user's own loader; None without one."""
    own = data.epochs
    if own is None:
        return None
    return lambda batch_size, seed, epoch: islice(own(batch_size, seed, epoch), -(-n_samples // batch_size))


def lost(before: Metrics, now: Metrics) -> float:
    """Return the points of quality that are lost: hundredths of a perfect score."""
    return 100.0 * (before.quality - now.quality)
