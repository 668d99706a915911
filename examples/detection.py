"""A detector of one's own: torchvision's SSDlite, unchanged, on canvases with pasted garments.

    nacdeploy train    --task examples/detection.py:ssdlite --profile examples/detection.toml --out detector
    nacdeploy transfer --task examples/detection.py:ssdlite --profile examples/detection.toml --checkpoint detector \
                       --strategy Q
    nacdeploy export   --target ort
    nacdeploy bench    runs/export-ort-1

What is compressed and exported is the backbone with its heads (`deployable`). Anchors, decoding and non-maximum
suppression stay in Python: `postprocess` joins them again where the network is scored, in torch as in the artifact.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

import nacdeploy
from nacdeploy import data
from nacdeploy.profile.tables.training import DataTable

SIDE, N_CLASSES = 128, 11  # ten kinds of garments, and background as class 0


@cache
def garments(split: str) -> tuple[Tensor, Tensor]:
    """Return the garments of a split, uint8 (N, 28, 28), and their kinds, 1 to 10."""
    found = data.load("fashion-mnist", DataTable())
    images = getattr(found, split)
    return images.images[:, 0], images.labels + 1


class Canvases(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Canvases of noise with one to four garments of differing sizes, and the exact boxes around their pixels."""

    def __init__(self, split: str, n: int, seed: int) -> None:
        self.split, self.n, self.seed = split, n, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        images, kinds = garments(self.split)
        canvas = torch.rand(1, SIDE, SIDE, generator=draw) * 0.2
        boxes, labels = [], []
        for _ in range(int(torch.randint(1, 5, (), generator=draw))):
            number = int(torch.randint(len(images), (), generator=draw))
            side = int(torch.randint(28, 65, (), generator=draw))
            top, left = torch.randint(0, SIDE - side + 1, (2,), generator=draw).tolist()
            garment = nn.functional.interpolate(images[number].float()[None, None] / 255, (side, side), mode="bilinear")
            rows, columns = (torch.nonzero(garment[0, 0].amax(axis) > 0.1)[:, 0] for axis in (1, 0))
            box = torch.tensor([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1.0])
            if boxes and bool((box_iou(box[None], torch.stack(boxes)) > 0.15).any()):
                continue
            place = canvas[:, top : top + side, left : left + side]
            torch.maximum(place, garment[0], out=place)
            boxes.append(box)
            labels.append(int(kinds[number]))
        return (canvas.expand(3, -1, -1) - 0.5) / 0.5, {"boxes": torch.stack(boxes), "labels": torch.tensor(labels)}


def collate(samples: list[Any]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Stack images; boxes stay a list, since every image has its own number."""
    return torch.stack([image for image, _ in samples]), [target for _, target in samples]


class Heads(nn.Module):
    """The detector up to its raw answers: box offsets (N, A, 4) and logits (N, A, classes) of A anchors."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.head(list(self.backbone(images).values()))


def around(detector: Any) -> tuple[Any, Any]:
    """Return the loss and the post-processing of a detector, on its raw answers."""
    blank = torch.zeros(1, 3, SIDE, SIDE)
    with torch.no_grad():
        features = list(detector.eval().backbone(blank).values())
    (anchors,) = detector.anchor_generator(ImageList(blank, [(SIDE, SIDE)]), features)

    def loss(answers: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        here = anchors.to(answers["cls_logits"].device)
        matched = [detector.proposal_matcher(box_iou(each["boxes"], here)) for each in targets]
        parts = detector.compute_loss(targets, answers, [here] * len(targets), matched)
        return parts["bbox_regression"] + parts["classification"]

    def postprocess(answers: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        n = len(answers["cls_logits"])
        return detector.postprocess_detections(answers, [anchors] * n, [(SIDE, SIDE)] * n)

    return loss, postprocess


def ssdlite(n_train: int = 4000, n_validation: int = 300, n_test: int = 2000) -> nacdeploy.Task:
    """Return the task of torchvision's SSDlite with MobileNetV3."""
    torch.manual_seed(0)
    detector = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=N_CLASSES)
    loss, postprocess = around(detector)

    def loader(split: str, n: int, seed: int) -> Any:
        return torch.utils.data.DataLoader(
            Canvases(split, n, seed), batch_size=32, shuffle=split == "train", collate_fn=collate
        )

    return nacdeploy.Task(
        detector,
        train=loader("train", n_train, 1),
        validation=loader("validation", n_validation, 2),
        test=loader("test", n_test, 3),
        loss=loss,
        metric=nacdeploy.Measure(MeanAveragePrecision(), "map", key="map"),
        deployable=Heads,
        postprocess=postprocess,
        name="ssdlite",
    )
