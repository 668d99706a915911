"""Kinds of tasks, each as it is written without nacdeploy: a network, its data, its loss and its metric.

    nacdeploy search   --task examples/kinds.py:segmentation --budget 6 --max-drop 2
    nacdeploy transfer --task examples/kinds.py:tokens --strategy PQF
    nacdeploy export   --target ort
    nacdeploy bench    runs/export-ort-1

The data are drawn or come with scikit-learn, the networks train in seconds. `examples/segmentation.py` is one of real
size.
"""

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import nacdeploy

Loss = Callable[[Any, Any], Tensor]


def learned(model: nn.Module, inputs: tuple[Tensor, ...], targets: Any, loss: Loss, epochs: int) -> nn.Module:
    """Train a network on all samples, in place, and return it."""
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(inputs[0]) // 50))
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs[0])).split(50)[: len(inputs[0]) // 50]:
            optimizer.zero_grad()
            wanted = {key: each[rows] for key, each in targets.items()} if isinstance(targets, dict) else targets[rows]
            loss(model(*(each[rows] for each in inputs)), wanted).backward()
            optimizer.step()
            schedule.step()
    return model


def split(*tensors: Tensor, sizes: tuple[int, int] = (800, 200)) -> dict[str, TensorDataset]:
    """Return the first samples to train on, the next to validate, and the rest to test."""
    n, ends = len(tensors[0]), (0, sizes[0], sum(sizes))
    parts = zip(("train", "validation", "test"), ends, (*ends[1:], n), strict=True)
    return {name: TensorDataset(*(each[first:last] for each in tensors)) for name, first, last in parts}


# Several labels for each image.

PROPERTIES = torch.tensor(
    [[digit % 2, digit < 5, digit in (0, 6, 8, 9), digit % 3 == 0] for digit in range(10)]
).float()


def multilabel() -> nacdeploy.Task:
    """Is a digit odd, small, has it a loop, is it a multiple of three: four answers at once, judged by F1."""
    torch.manual_seed(0)
    digits = load_digits()
    images, wanted = torch.tensor(digits.images).float()[:, None] / 16, PROPERTIES[digits.target]
    body = (nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 4))
    loss = nn.BCEWithLogitsLoss()
    learned(model, (images[:800],), wanted[:800], loss, 6)
    return nacdeploy.Task(model, **split(images, wanted), loss=loss, metric=nacdeploy.Measure(f1, "f1"))


def f1(logits: Tensor, wanted: Tensor) -> Tensor:
    said, is_so = logits > 0, wanted > 0.5
    return 2 * (said & is_so).sum() / (said.sum() + is_so.sum())


# A number for each row of a table.


def regression() -> nacdeploy.Task:
    """The course of a disease from ten measurements of a patient: the mean error, in points of its scale."""
    torch.manual_seed(0)
    table = load_diabetes()
    rows, course = torch.tensor(table.data).float() * 20, torch.tensor(table.target).float()[:, None] / 100
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    loss = nn.MSELoss()
    learned(model, (rows[:300],), course[:300], loss, 6)
    metric = nacdeploy.Measure(lambda found, wanted: 100 * (found - wanted).abs().mean(), "mae", "points", True)
    return nacdeploy.Task(model, **split(rows, course, sizes=(300, 70)), loss=loss, metric=metric)


# A class for each pixel.


class Pixels(nn.Module):
    """A class for each pixel: an encoder, and a decoder that enlarges its answer, in a dictionary as torchvision's."""

    def __init__(self, n_classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1))
        self.head = nn.Conv2d(48, n_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.stem(images)
        coarse = functional.interpolate(self.deep(fine).relu(), size=fine.shape[-2:], mode="bilinear")
        return {"out": self.head(torch.cat([fine, coarse], 1))}


def canvases(n: int, side: int = 16) -> tuple[Tensor, Tensor]:
    """Return noisy images (n, 1, side, side) with a bar and a disk, and the class of each pixel: nothing, bar, disk."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    at = torch.randint(2, side - 2, (n, 4, 1, 1))
    bar = ((x - at[:, 0]).abs() < 2) & ((y - at[:, 1]).abs() < 5)
    disk = (x - at[:, 2]) ** 2 + (y - at[:, 3]) ** 2 < 12
    classes = torch.where(disk, 2, bar.long())
    return (torch.tensor([0.0, 0.5, 1.0])[classes] + 0.2 * torch.randn(n, side, side))[:, None], classes


def iou(answer: dict[str, Tensor], classes: Tensor) -> Tensor:
    """Return the mean intersection over union of the classes."""
    found, n = answer["out"].argmax(1), answer["out"].shape[1]
    hits = torch.bincount((n * classes + found).flatten(), minlength=n * n).reshape(n, n).double()
    return (hits.diag() / (hits.sum(0) + hits.sum(1) - hits.diag()).clamp(min=1)).mean()


def pixel_loss(answer: dict[str, Tensor], classes: Tensor) -> Tensor:
    return functional.cross_entropy(answer["out"], classes)


def segmentation() -> nacdeploy.Task:
    """Which pixels are a bar, which a disk: the mean intersection over union."""
    torch.manual_seed(0)
    images, classes = canvases(1200)
    model = learned(Pixels(), (images[:800],), classes[:800], pixel_loss, 3)
    return nacdeploy.Task(model, **split(images, classes), loss=pixel_loss, metric=nacdeploy.Measure(iou, "miou"))


# A signal.


def tones() -> nacdeploy.Task:
    """The note (of twelve) of a second of noisy sound, by convolutions along time."""
    torch.manual_seed(0)
    notes, time = torch.arange(1200) % 12, torch.arange(256) / 256
    pitch = 12 * 2 ** ((notes + 0.6 * (torch.rand(1200) - 0.5)) / 12)
    phase = 6.28 * torch.rand(1200, 1)
    sound = torch.sin(6.28 * pitch[:, None] * time + phase) + 0.3 * torch.randn(1200, 256)
    body = (nn.Conv1d(1, 32, 31, 4, 15), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 9, 2, 4), nn.ReLU())
    more = (nn.MaxPool1d(2), nn.Conv1d(64, 64, 5, padding=2), nn.BatchNorm1d(64), nn.ReLU())
    model = nn.Sequential(*body, *more, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(64, 12))
    learned(model, (sound[:800, None],), notes[:800], functional.cross_entropy, 8)
    return nacdeploy.Task(model, **split(sound[:, None], notes))


# Words.


class Attention(nn.Module):
    """Attention over tokens (N, T, width); its heads are counted by an attribute, so that P may take whole heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.behind, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.hidden(self.behind(x))


class Encoder(nn.Module):
    """A transformer encoder on token ids (N, T), int64."""

    def __init__(self, n_words: int = 20, width: int = 32, heads: int = 4, length: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(n_words, width), nn.Parameter(0.1 * torch.randn(length, width))
        self.blocks, self.answer = nn.Sequential(Block(width, heads), Block(width, heads)), nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.answer(self.blocks(self.words(tokens) + self.places).mean(1))


def tokens() -> nacdeploy.Task:
    """Does the word 1 come before the word 2 in a sentence of twelve words?"""
    torch.manual_seed(0)
    words = torch.randint(3, 20, (1600, 12))
    places = torch.stack([torch.randperm(12)[:2] for _ in range(1600)])
    words.scatter_(1, places, torch.tensor([1, 2]).expand(1600, 2))
    is_so = (places[:, 0] < places[:, 1]).long()
    model = learned(Encoder(), (words[:1200],), is_so[:1200], functional.cross_entropy, 8)
    return nacdeploy.Task(model, **split(words, is_so, sizes=(1200, 200)))


class Reader(nn.Module):
    """A recurrent network on token ids, read from its last state."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM) -> None:
        super().__init__()
        self.words, self.reader = nn.Embedding(20, 32), kind(32, 64, batch_first=True)
        self.answer = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.answer(self.reader(self.words(tokens))[0][:, -1])


def recurrent(kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM) -> nacdeploy.Task:
    """The question of `tokens` to an LSTM: what is compressed is what stands around it."""
    words = tokens()
    parts = {name: getattr(words, name) for name in ("train", "validation", "test")}
    torch.manual_seed(0)
    model = learned(Reader(kind), parts["train"].tensors[:1], parts["train"].tensors[1], functional.cross_entropy, 8)
    return nacdeploy.Task(model, **parts)


# Several inputs and outputs.


class Pair(nn.Module):
    """Are two images of the same digit, and which digits are they?"""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())
        self.digit, self.same = nn.Linear(512, 10), nn.Sequential(nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = self.eye(first).flatten(1), self.eye(second).flatten(1)
        return self.same(torch.cat([a, b], 1))[:, 0], self.digit(a), self.digit(b)


def pair_loss(answer: tuple[Tensor, ...], wanted: dict[str, Tensor]) -> Tensor:
    same, first, second = answer
    total = functional.binary_cross_entropy_with_logits(same, wanted["same"])
    return total + functional.cross_entropy(first, wanted["a"]) + functional.cross_entropy(second, wanted["b"])


def all_right(answer: tuple[Tensor, ...], wanted: dict[str, Tensor]) -> Tensor:
    same, first, second = answer
    right = ((same > 0) == (wanted["same"] > 0.5)) & (first.argmax(1) == wanted["a"])
    return (right & (second.argmax(1) == wanted["b"])).double().mean()


def pairs() -> nacdeploy.Task:
    """Two images in, three answers out, all of which have to be right."""
    torch.manual_seed(0)
    digits = load_digits()
    images, kinds = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    other = torch.stack([torch.randint(len(kinds), (len(kinds),)), torch.arange(len(kinds)).roll(10)])
    other = other[torch.randint(2, (len(kinds),)), torch.arange(len(kinds))]
    rows = {"first": images, "second": images[other], "a": kinds, "b": kinds[other]}
    rows["same"] = (rows["a"] == rows["b"]).float()
    model = learned(
        Pair(),
        (images[:1000], rows["second"][:1000]),
        {key: rows[key][:1000] for key in ("a", "b", "same")},
        pair_loss,
        6,
    )
    ends = {"train": (0, 1000), "validation": (1000, 1300), "test": (1300, len(kinds))}
    batches = {
        name: [{key: each[i : min(i + 50, last)] for key, each in rows.items()} for i in range(first, last, 50)]
        for name, (first, last) in ends.items()
    }
    return nacdeploy.Task(model, **batches, loss=pair_loss, metric=nacdeploy.Measure(all_right, "all_right"))
