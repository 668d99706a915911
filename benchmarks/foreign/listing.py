"""The list of networks that coverage is measured on: committed before the first run, and the denominator of it.

Every classification network of torchvision; of each module file of timm the smallest network by parameters and one
more: the smallest of another family of that file (a family is a name's first word without digits), or the next one
where the file holds one family only; encoders without a classifier are none. Each at the network's own input size where
that is at most 128 px, otherwise at the smallest of `SIZES` at which it answers in evaluation and in training. Networks
above 150 M parameters come last.
"""

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nacdeploy.base import records
from nacdeploy.models import ModelSpec

FILE = Path(__file__).parent.parent / "coverage_list.json"
LARGE = 150_000_000
SMALL_SIDE = 128
ENCODER = "_enc"  # timm's suffix of networks without a classifier
SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
N_CLASSES = 10
LIMIT_S = 60  # of one attempt: a network that is too large for it is left to its own size


@dataclass(frozen=True)
class Entry:
    """One network: where it is from, the side of its square images, its parameters with ten classes.

    `size` 0 says that no size was found: the reason stands in `note`.
    """

    library: str
    file: str
    name: str
    size: int
    n_parameters: int
    note: str = ""

    @property
    def model(self) -> str:
        return f"{self.library}:{self.name}"


@dataclass(frozen=True)
class Listing:
    """The list, in the order in which it is run, and the versions that it was made with."""

    versions: dict[str, str]
    networks: tuple[Entry, ...]


def read(path: Path = FILE) -> Listing:
    """The committed list."""
    return records.read(Listing, path)


def write(report: Callable[[str], None], path: Path = FILE) -> Listing:
    """Make the list anew: some minutes, most of them for counting the parameters of timm."""
    import timm
    import torchvision

    found = [*_torchvision(report), *_timm(report)]
    found.sort(key=lambda e: (e.n_parameters > LARGE, e.n_parameters if e.n_parameters > LARGE else 0))
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
    listing = Listing({k: v.partition("+")[0] for k, v in versions.items()}, tuple(found))
    records.write_json(path, records.to_data(listing))
    return listing


def spec(model: str, size: int) -> ModelSpec:
    """The specification of a network for ten classes."""
    return ModelSpec(model, N_CLASSES, 3, (size, size))


def _torchvision(report: Callable[[str], None]) -> Iterator[Entry]:
    from torchvision import models

    for name in models.list_models(module=models):
        yield _entry("torchvision", "", name, 224, report)


def _timm(report: Callable[[str], None]) -> Iterator[Entry]:
    """Two networks of every module file; of a file whose networks cannot be counted, the first two by name."""
    import timm
    from timm.models._registry import _module_to_models

    for file in sorted(_module_to_models):
        classifiers = [name for name in timm.list_models(module=file) if not name.endswith(ENCODER)]
        counts = {name: _n_parameters(name) for name in classifiers}
        for name in chosen(counts):
            pretrained = timm.get_pretrained_cfg(name)
            own = pretrained.input_size[-1] if pretrained and pretrained.input_size else 224
            yield _entry("timm", file, name, own, report)


def chosen(counts: dict[str, int | None]) -> list[str]:
    """The smallest network and the smallest of another family, else the next one; uncounted ones last."""
    ordered = sorted(counts, key=lambda name: (counts[name] is None, counts[name] or 0, name))
    first, rest = ordered[:1], ordered[1:]
    others = [name for name in rest if _family(name) != _family(ordered[0])]
    return [*first, *(others or rest)[:1]]


def _family(name: str) -> str:
    return re.match(r"[a-z]*", name).group()  # type: ignore[union-attr]


def _n_parameters(name: str) -> int | None:
    """The parameters with ten classes, counted on the meta device; None where the network cannot be built there."""
    import timm

    try:
        with _limited(LIMIT_S), torch.device("meta"):
            return _count(timm.create_model(name, pretrained=False, num_classes=N_CLASSES))
    except Exception:
        return None


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _entry(library: str, file: str, name: str, own: int, report: Callable[[str], None]) -> Entry:
    entry = _sized(Entry(library, file, name, 0, 0), own)
    report(f"{entry.model} {entry.size} px, {entry.n_parameters / 1e6:.2f} M parameters {entry.note}".rstrip())
    return entry


def _sized(entry: Entry, own: int) -> Entry:
    """The entry with the smallest size at which the network answers, and its parameters there."""
    reason = ""
    for size in _sizes(own):
        try:
            with _limited(LIMIT_S):
                return Entry(entry.library, entry.file, entry.name, size, _answers(entry.model, size))
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
    return Entry(entry.library, entry.file, entry.name, 0, 0, f"answers at no size; at {size} px {reason}")


def _sizes(own: int) -> Sequence[int]:
    """A small network's own size first; its own size last of all otherwise."""
    return (own, *SIZES) if own <= SMALL_SIDE else (*(s for s in SIZES if s < own), own, *(s for s in SIZES if s > own))


def _answers(model: str, size: int) -> int:
    """The network's parameters.

    Raises:
        Exception: it does not turn images into finite logits (N, 10) in evaluation, or not into anything in training.
    """
    torch.manual_seed(0)
    network = spec(model, size).build().eval()
    with torch.no_grad():
        answer: Any = network(torch.randn(2, 3, size, size))
        if tuple(getattr(answer, "shape", ())) != (2, N_CLASSES):
            raise ValueError(f"it answers {tuple(getattr(answer, 'shape', ())) or type(answer).__name__}")
        network.train()(torch.randn(2, 3, size, size))
    return _count(network)


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """An alarm after so many seconds, as a TimeoutError."""

    def ring(*signal_and_frame: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    former = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
