"""Settings for images without labels: the network's own answers take their place, and F learns from them alone."""

from pathlib import Path
from typing import Any

from nacdeploy import data as datasets
from nacdeploy import metrics, models
from nacdeploy.base.errors import UsageError
from nacdeploy.metrics import AGREEMENT, DEFAULT
from nacdeploy.models import from_onnx, weights
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Layer, Settings
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.steps.checkpoint import Record

SOURCE = "images without labels"


def layers(settings: Settings, record: Record | None, path: Path | None, new_head: bool) -> tuple[Layer, ...]:
    """Return the keys that follow from a data set without labels, or from the metric that asks for none; no layer for
    any other.

    `record` is the record of the checkpoint folder and `path` the file or folder that the network comes from, if any.

    Raises:
        UsageError: no trained network is given, or nothing says how many outputs it has.
    """
    profile = settings.profile
    if from_onnx.is_onnx(profile.model):
        is_open = not profile.of(FinetuneTable).distill and "finetune.distill" not in settings.given
        return (("a graph without a loss", {"finetune": {"distill": 1.0}}),) if is_open else ()
    is_asked = metrics.asks_the_baseline(metrics.named(profile.metric))
    if not is_asked and (profile.metric != DEFAULT or datasets.has_labels(profile.data)):
        return ()
    if path is None or new_head:
        why = f"metric '{profile.metric}' reads none" if is_asked else "its images lie in no folders by class"
        raise UsageError(
            f"the network cannot be trained on data set '{profile.data}' without labels ({why}); give a trained one "
            f"with --checkpoint{', without --new-head' if new_head else ''}"
        )
    tables: dict[str, Any] = {} if is_asked else {"metric": AGREEMENT.name}
    if profile.images.classes is None and profile.images.n_classes is None:
        tables["images"] = {"n_classes": _n_outputs(profile, record, path)}
    if not profile.of(FinetuneTable).distill and "finetune.distill" not in settings.given:
        tables["finetune"] = {"distill": 1.0}
    return ((SOURCE, tables),) if tables else ()


def _n_outputs(profile: Profile, record: Record | None, path: Path) -> int:
    if record is not None:
        return record.model.n_classes
    for n_guessed, channels in ((7, 3), (11, 3), (7, 1), (11, 1)):  # two guesses: one may be the number itself
        side = profile.images.crop or profile.images.input_size or 224
        spec = models.resolve(
            profile.model, n_classes=n_guessed, channels=channels, input_size=(side, side), width=profile.width
        )
        found = weights.n_classes(path, spec.build())
        if found is not None:
            return found
    raise UsageError(
        f"nothing says how many outputs model '{profile.model}' of {path} has, and the images have no labels; set "
        "images.n_classes"
    )
