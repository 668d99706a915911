"""Segmentation at its real size: torchvision's LRASPP with MobileNetV3, unchanged, on canvases with pasted garments.

    nacdeploy train    --task examples/segmentation.py:lraspp --profile examples/segmentation.toml --out segmenter
    nacdeploy transfer --task examples/segmentation.py:lraspp --profile examples/segmentation.toml \
                       --checkpoint segmenter --strategy QF
    nacdeploy export   --target ort
    nacdeploy bench    runs/export-ort-1

The network answers with a dictionary whose "out" has a score for each class and pixel; so does the artifact.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import segmentation

import nacdeploy
from nacdeploy import data
from nacdeploy.profile.tables.training import DataTable

SIDE, N_CLASSES = 96, 11  # ten kinds of garments, and background as class 0


@cache
def garments(split: str) -> tuple[Tensor, Tensor]:
    """Return the garments of a split, float32 (N, 28, 28) from 0 to 1, and their kinds, 1 to 10."""
    images = getattr(data.load("fashion-mnist", DataTable()), split)
    return images.images[:, 0].float() / 255, images.labels + 1


class Canvases(Dataset[tuple[Tensor, Tensor]]):
    """Canvases of noise (3, SIDE, SIDE) with one to three garments of differing sizes, and the class of each pixel."""

    def __init__(self, split: str, n: int, seed: int) -> None:
        self.split, self.n, self.seed = split, n, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        images, kinds = garments(self.split)
        canvas, classes = torch.rand(SIDE, SIDE, generator=draw) * 0.2, torch.zeros(SIDE, SIDE, dtype=torch.long)
        for _ in range(int(torch.randint(1, 4, (), generator=draw))):
            number = int(torch.randint(len(images), (), generator=draw))
            side = int(torch.randint(32, 65, (), generator=draw))
            top, left = torch.randint(0, SIDE - side + 1, (2,), generator=draw).tolist()
            garment = nn.functional.interpolate(images[number][None, None], (side, side), mode="bilinear")[0, 0]
            place = (slice(top, top + side), slice(left, left + side))
            is_garment = garment > 0.1
            canvas[place] = torch.where(is_garment, garment, canvas[place])
            classes[place] = torch.where(is_garment, kinds[number], classes[place])
        return (canvas.expand(3, -1, -1) - 0.5) / 0.5, classes


def mean_iou(answer: dict[str, Tensor], classes: Tensor) -> Tensor:
    """Return the intersection over union of each class, over all pixels of a split, as the mean of the classes."""
    hits = torch.zeros(N_CLASSES, N_CLASSES, dtype=torch.float64)
    for found, wanted in zip(answer["out"].argmax(1), classes, strict=True):
        hits += torch.bincount((N_CLASSES * wanted + found).flatten(), minlength=N_CLASSES**2).reshape(hits.shape)
    return (hits.diag() / (hits.sum(0) + hits.sum(1) - hits.diag()).clamp(min=1)).mean()


def loss(answer: dict[str, Tensor], classes: Tensor) -> Tensor:
    return nn.functional.cross_entropy(answer["out"], classes)


def lraspp(n_train: int = 8000, n_validation: int = 200, n_test: int = 500) -> nacdeploy.Task:
    """Return the task of torchvision's LRASPP with MobileNetV3, from random weights."""
    torch.manual_seed(0)
    model = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=N_CLASSES)
    train = DataLoader(Canvases("train", n_train, 1), batch_size=32, shuffle=True, drop_last=True)
    return nacdeploy.Task(
        model,
        train=train,
        validation=Canvases("validation", n_validation, 2),
        test=Canvases("test", n_test, 3),
        loss=loss,
        metric=nacdeploy.Measure(mean_iou, "miou"),
    )
