"""Training a baseline."""

from pathlib import Path
from typing import Unpack

from nacdeploy import models
from nacdeploy.base.progress import Progress, default
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import shelves_of, train_baseline
from nacdeploy.sessions.setup import settled, wanted


def train(
    *,
    out: Path | str | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Path:
    """Train the FP32 baseline of a model and return its checkpoint folder.

    >>> import nacdeploy
    >>> nacdeploy.train(profile="tiny.toml", epochs=1, out="baseline").name
    'baseline'
    """
    progress = progress or default()
    models.name_by_user(shared.get("model"), shared.get("task"))
    request = wanted(shared, train={"epochs": epochs})
    runs = Runs(Path(request.options["runs"]))
    with runs.place(out, "train") as place:
        setup = settled(request, progress)
        progress.say(setup.normalised)
        shelves = shelves_of(runs, setup.profile, progress)
        train_baseline(place, setup, shelves, progress)
        shelves.close()
    return place
