"""The normalisation and labels of images: by options, by a network's own training, and the lines about them.

Without an option, the normalisation is the checkpoint's if ours recorded one, the network's own if timm's or
torchvision's weights may be in a file, and else the training images'.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from nacdeploy.base.errors import UsageError
from nacdeploy.data import Dataset
from nacdeploy.metrics import named, shown
from nacdeploy.models import pretrained
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Layer
from nacdeploy.profile.tables.training import NORMALIZATIONS, DataTable
from nacdeploy.sessions import first_norm
from nacdeploy.sessions.first_norm import Normalization
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.checkpoint import Record

TAKEN = ("channel_order", "value_range")
KEYS = ("mean", "std", "classes", "n_classes")


def asked(normalize: str | None, classes: str | None) -> dict[str, Any]:
    """Return the keys of the table `images` in options: `--normalize imagenet` or `0.5/0.25`, `--classes FILE`.

    Raises:
        UsageError: a normalisation is neither a name nor MEAN/STD.
    """
    given: dict[str, Any] = {} if classes is None else {"classes": classes}
    if normalize in NORMALIZATIONS:
        given |= {"mean": normalize, "std": normalize}
    elif normalize is not None:
        given |= dict(zip(("mean", "std"), _numbers(normalize), strict=True))
    return given


def given_keys(profile: Profile) -> dict[str, Any]:
    """Return the keys that say how images are seen and labelled, where a profile or an option gives them."""
    images = profile.images.model_dump(mode="json")
    given = {key: images[key] for key in KEYS if images[key] is not None}
    if images["mean"] is not None:
        given |= {key: images[key] for key in TAKEN}  # in which its numbers are
    if images["preprocess"] is not None:
        given |= {key: images[key] for key in ("preprocess", "input_size", "resize", "crop", "interpolation")}
    return given


def settled(profile: Profile, record: Record | None, is_given: bool) -> Layer:
    """Return the keys of the table `images` with every choice that is not the data's, and the source of the
    normalisation.

    `record` is the record of the checkpoint folder, if the network comes from one; `is_given`: the network comes from
    any file.

    Raises:
        UsageError: the network's own normalisation is asked for, and no source knows it.
    """
    images, why = profile.images, "as images.mean and images.std say"
    why = why if images.preprocess is None else f"as images.preprocess = '{images.preprocess}' says"
    if images.mean is None:
        own = record.data if record is not None else {}
        known = pretrained.pretraining(profile.model) if is_given and record is None else None
        why = "the training images' own"
        if own.get("mean"):  # empty: a task of one's own, whose data arrive as they are
            taken = {"channel_order": "rgb", "value_range": "0..1"} | {k: own[k] for k in TAKEN if k in own}
            images = _normalised(images.model_copy(update=taken), own["mean"], own["std"])
            why = "the checkpoint's own"
        elif known is not None:
            images = _normalised(images, images.seen(known.mean), images.seen(known.std))
            why = f"the network's own by {profile.model.partition(':')[0]}"
    images = pretrained.settled(profile.model, images)
    before, now = (table.model_dump(mode="json") for table in (profile.images, images))
    return why, {"images": {key: value for key, value in now.items() if value != before[key]}}


def _normalised(images: DataTable, mean: Sequence[float], std: Sequence[float]) -> DataTable:
    try:
        return DataTable.model_validate({**images.model_dump(), "mean": list(mean), "std": list(std)})
    except ValidationError as error:
        raise UsageError(
            f"the checkpoint's normalisation, mean {mean} and std {std}, is none: give --normalize MEAN/STD"
        ) from error


def line(data: Dataset, why: str) -> str:
    """Return the normalisation of the images and its reason in one line, and further notes on them, one line each."""
    if not data.mean:
        return "\n".join(data.notes)
    mean, std = (_spoken(scale) for scale in (data.mean, data.std))
    said = f"images normalised by mean {mean} and deviation {std}: {why} (--normalize, images.mean, images.std)"
    if data.as_taken:
        said += f"; pixels of {data.value_range} in the order {data.channel_order}"
    return "\n".join((said, *data.notes))


def given_lines(baseline: CompressionState, data: Dataset, model: str, where: str) -> list[str]:
    """Say how a given network scores, and whether the images arrive as in its training."""
    found, metric = baseline.metrics, named(baseline.metrics.metric)
    if data.answered_by:
        return [
            f"no labels are read: the answers of {model} from {where} stand in their place, and scores are top-1 "
            "agreement with them",
            *_warnings(baseline, data, model),
        ]
    is_near = metric.is_near_chance(found.score, found.chance, found.n_images)
    chance = f", near the {shown(metric, found.chance)} of chance" if is_near else ""
    lines = [f"baseline {model} from {where}: {shown(metric, found.score)} on validation{chance}"]
    return [*lines, *_warnings(baseline, data, model)]


def _warnings(baseline: CompressionState, data: Dataset, model: str) -> list[str]:
    mismatch = first_norm.mismatch(baseline.network.backbone, data, _own(model)) if data.mean else None
    return [] if mismatch is None else [f"warning: {mismatch}"]


def _own(model: str) -> list[Normalization]:
    """Return the normalisation that a network's library names."""
    known = pretrained.pretraining(model)
    return [] if known is None else [Normalization("model", known.mean, known.std)]


def _numbers(text: str) -> tuple[list[float], list[float]]:
    parts = [part.split(",") for part in text.split("/")]
    try:
        mean, std = ([float(number) for number in part] for part in parts)
    except ValueError as error:
        names = ", ".join(NORMALIZATIONS)
        raise UsageError(
            f"--normalize takes {names} or MEAN/STD such as 0.5/0.25 (colours apart by commas), not '{text}'"
        ) from error
    return mean, std


def _spoken(scale: Sequence[float]) -> str:
    values = scale[:1] if len(set(scale)) == 1 else scale
    return ", ".join(f"{value:.4g}" for value in values)
