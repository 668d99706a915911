"""make bench-data: folders of JPEGs larger than memory should hold: images a second, and peak memory of a whole job.

The folders are drawn (smooth noise, 256 pixels, quality 90). The loader is compared with torch's DataLoader over the
same files with torchvision's v2 transforms of the same meaning, in turns; the job is `transfer --strategy PQ` of a
ResNet18 with given weights at 224 pixels, in a process of its own, on 256 validation and 64 test images.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from nacdeploy import data
from nacdeploy.base import latency
from nacdeploy.profile.tables.training import DataTable

FOLDER = Path("bench-run") / "data-at-size"
N_CLASSES, BATCH, ROUNDS = 10, 64, 3
TABLE = {"resize": 256, "crop": 224, "mean": "imagenet", "std": "imagenet"}
PROFILE = """name = "at-size"
[images]
resize = 256
crop = 224
mean = "imagenet"
std = "imagenet"
n_validation = 256
n_test = 64
[settle]
n_images = 128
[quantize]
n_calibration = 128
"""


def main(sizes: list[int]) -> None:
    rows = [_row(n) for n in sizes]
    print(f"\nmachine: {latency.machine()}; JPEGs of 256 px, shorter side {TABLE['resize']}, middle {TABLE['crop']}")
    print("| images | loader / DataLoader with 2 workers | second pass / first | peak MiB of transfer PQ | minutes |")
    print("|---|---|---|---|---|")
    for n, ratio, again, peak, minutes in rows:
        print(f"| {n:,} | {ratio:.2f} | {again:.1f} | {peak:.0f} | {minutes:.1f} |")


def _row(n_images: int) -> tuple[int, float, float, float, float]:
    folder = _drawn(n_images)
    ratio, again = _loader(folder)
    return n_images, ratio, again, *_job(folder)


def _drawn(n_images: int) -> Path:
    folder = FOLDER / f"jpeg-{n_images}"
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for label in range(N_CLASSES):
        (folder / "images" / f"class{label}").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: _draw(folder / "images" / f"class{i % N_CLASSES}" / f"{i:06}.jpg", i), range(n_images)))
    (folder / "done").write_text("")
    return folder


def _draw(path: Path, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)


def _loader(folder: Path) -> tuple[float, float]:
    """Images a second of our first pass over those of a DataLoader, and of our second pass over the first: medians."""
    ratios, again = [], []
    for _ in range(ROUNDS):
        table = DataTable.model_validate({**TABLE, "n_train": 1000, "in_memory_mib": 0})
        train = data.load(f"folder:{folder / 'images'}", table).train
        first, n = _timed(train.images.split(BATCH))
        second, _ = _timed(train.images.split(BATCH))
        other, n_other = _timed(_data_loader(folder, n))
        ratios.append((n / first) / (n_other / other))
        again.append(first / second)
    return median(ratios), median(again)


def _data_loader(folder: Path, n: int) -> DataLoader[torch.Tensor]:
    change = v2.Compose([v2.PILToTensor(), v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    images = torch.utils.data.Subset(ImageFolder(str(folder / "images"), change), list(range(n)))
    return DataLoader(images, BATCH, num_workers=2, collate_fn=lambda rows: torch.stack([image for image, _ in rows]))


def _timed(batches: object) -> tuple[float, int]:
    start, n = time.perf_counter(), 0
    for batch in batches:  # type: ignore[attr-defined]
        n += len(batch)
    return time.perf_counter() - start, n


def _job(folder: Path) -> tuple[float, float]:
    """Peak resident MiB and minutes of a whole transfer in a process of its own."""
    place = FOLDER / "job"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    weights = torchvision.models.resnet18(num_classes=N_CLASSES).state_dict()
    torch.save(weights, place / "weights.pt")
    (place / "profile.toml").write_text(PROFILE)
    options = ["--strategy", "PQ", "--model", "torchvision:resnet18", "--checkpoint", "weights.pt"]
    options += ["--profile", "profile.toml", "--data", f"folder:{(folder / 'images').resolve()}", "--no-wandb"]
    start = time.monotonic()
    job = subprocess.Popen([sys.executable, "-m", "nacdeploy.cli.main", "transfer", *options], cwd=place)
    _, status, used = os.wait4(job.pid, 0)
    if status:
        sys.exit(1)
    return used.ru_maxrss / 1024, (time.monotonic() - start) / 60


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [2000, 20000])
