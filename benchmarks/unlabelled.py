"""make bench-unlabelled: channels removed from a bare ONNX file without labels, EfficientNet-lite0 on crops.

The network is the ONNX file of EfficientNet-lite0 with its ImageNet weights (as in real_networks.py, which installs
it). Crops of fourteen of foolbox's twenty photographs and of sixteen of scikit-image and scikit-learn train, crops of
three decide, crops of three others are scored once; those that train are of more sizes, and F sees mixtures of two. No
label is read: P ranks by what the answers lose, F learns the float network's answers. Rows: Q alone; P at 70 % of the
INT8 time and Q; the same with F(distill=1) between them. Agreement is that of the highest output with the float
network's.
"""

import argparse
import csv
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import sklearn.datasets
import torch
from PIL import Image

import nacdeploy
from benchmarks.real_networks import FOLDER, INSTALLED, _install
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency
from nacdeploy.cli.render import RichProgress
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.task.graph_file import signal_to_noise

PLACE = FOLDER / "unlabelled"
N_PHOTOS = {"train": 14, "val": 3, "test": 3}
MORE = "scikit-image==0.26.0"
PHOTOS_OF_SKIMAGE = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png"),
    *("gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
PHOTOS_OF_SKLEARN = ("china.jpg", "flower.jpg")
IMAGES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": 224}
PROFILE = """name = "unlabelled"
[images]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
input_size = 224
[finetune]
optimizer = "adamw"
learning_rate = 0.0002
batch_size = 32
mixup = 0.4
[quantize]
reconstruct = true
[prune]
importance = "answers"
reconstruct = true
"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--crops", type=int, default=2000, help="crops that train")
    asked.add_argument("--epochs", type=int, default=3)
    given = asked.parse_args()
    _install()
    _crops({"train": given.crops, "val": 150, "test": 300})
    chains = ("Q", "P(time=0.7)Q", f"P(time=0.7)F(distill=1,epochs={given.epochs})Q")
    made = [_made(chain, number) for number, chain in enumerate(chains)]
    _report(chains, made)


def _crops(counts: dict[str, int]) -> None:
    """Write crops of 224 px and larger, and the list of them; the label says nothing."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    photos, draw, rows, first = sorted((INSTALLED / "foolbox" / "data").glob("imagenet_*")), random.Random(0), [], 0
    for split, n_photos in N_PHOTOS.items():
        own, first = photos[first : first + n_photos], first + n_photos
        wholes = [Image.open(each).convert("RGB") for each in [*own, *(_more() if split == "train" else [])]]
        for number in range(counts[split]):
            whole = wholes[number % len(wholes)]
            side = draw.randint(96 if split == "train" else 224, min(480, *whole.size))
            left, top = (draw.randint(0, length - side) for length in whole.size)
            name = f"{split}-{number:04d}.png"
            crop = whole.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
            crop.save(PLACE / name)
            rows.append((name, number % 2, split))
    with (PLACE / "crops.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def _more() -> list[Path]:
    """Return photographs of other packages."""
    place = INSTALLED / "skimage" / "data"
    if not place.is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(INSTALLED), MORE]
        subprocess.run(command, check=True)
    beside = Path(sklearn.datasets.__file__).parent / "images"
    return [*(place / name for name in PHOTOS_OF_SKIMAGE), *(beside / name for name in PHOTOS_OF_SKLEARN)]


def _made(chain: str, number: int) -> tuple[Path, float]:
    """Return the artifact of a chain, and the seconds it took."""
    start = time.monotonic()
    profile = PLACE / "profile.toml"
    profile.write_text(PROFILE)
    found = nacdeploy.transfer(
        strategy=chain,
        model=str(INSTALLED / "lite0.onnx"),
        data=f"csv:{PLACE / 'crops.csv'}",
        profile=str(profile),
        runs=PLACE / "runs",
        wandb=False,
        progress=RichProgress(),
    )
    out = PLACE / f"artifact-{number}"
    nacdeploy.export(source=found.folder, target="ort", out=out, runs=PLACE / "runs", wandb=False)
    return out, time.monotonic() - start


def _report(chains: tuple[str, ...], made: list[tuple[Path, float]]) -> None:
    settings = profiles.from_mapping({"name": "unlabelled", "images": IMAGES})
    task = tasks.make(str(INSTALLED / "lite0.onnx"), f"csv:{PLACE / 'crops.csv'}", settings)
    x = task.data.test.images[:].numpy()
    files = {"float": INSTALLED / "lite0.onnx"} | {
        chain: folder / "model.onnx" for chain, (folder, _) in zip(chains, made, strict=True)
    }
    runners = {name: OnnxRunner(path) for name, path in files.items()}
    answers = {name: np.concatenate([r.run(part)[0] for part in np.split(x, 10)]) for name, r in runners.items()}
    subjects = {name: runner.subject(x[:1]) for name, runner in runners.items()}
    timed = latency.compare(subjects, baseline="float", batch_size=1, threads=1, n_rounds=20, round_ms=200.0)
    print(
        "| chain | agreement with float, % | dB | speed-up (95 %) | of Q's time | seconds |\n|---|---|---|---|---|---|"
    )
    wanted, q_ms = answers["float"], timed.latencies["Q"].p50_ms
    for chain, (_, seconds) in zip(chains, made, strict=True):
        agreement = 100 * float((answers[chain].argmax(1) == wanted.argmax(1)).mean())
        db = signal_to_noise(torch.from_numpy(answers[chain]), torch.from_numpy(wanted))
        speed, share = timed.ratios[chain], timed.latencies[chain].p50_ms / q_ms
        ratio = f"{speed.value:.2f}x ({speed.low:.2f}-{speed.high:.2f})"
        print(f"| `{chain}` | {agreement:.1f} | {db:.1f} | {ratio} | {share:.2f} | {seconds:.0f} |")
    print(f"\nmachine: {latency.machine()}; 1 thread, batch 1, ONNX Runtime; {len(x)} crops of held-back photographs")


if __name__ == "__main__":
    main()
