"""Lay the photographs out: `photographs/{train,val,test}/CLASS/*.jpg`, CLASS being the number of an ImageNet class.

Test are foolbox's 20 labelled photographs as they are. Train and val are parts, of many sizes, of three photographs
that scikit-learn and matplotlib carry: `Q` looks at images, never at what is on them.
"""

import random
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

OTHERS = {  # by package: a palace, a daisy and a military uniform, as far as ImageNet has names for them
    "sklearn": {"datasets/images/china.jpg": "698", "datasets/images/flower.jpg": "985"},
    "matplotlib": {"mpl-data/sample_data/grace_hopper.jpg": "652"},
}
N_PARTS = {"train": 10, "val": 5}  # of each photograph


def package(name: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    found = find_spec(name)
    if found is None or found.origin is None:
        sys.exit(f"{name} is not installed: python -m pip install {name}")
    return Path(found.origin).parent


def main(folder: Path) -> None:
    draw = random.Random(0)
    for photograph in sorted((package("foolbox") / "data").glob("imagenet_*")):
        (label,) = re.findall(r"imagenet_\d+_(\d+)", photograph.name)
        shutil.copy(photograph, made(folder / "test" / label))
    for name, photographs in OTHERS.items():
        for place, label in photographs.items():
            file = package(name) / place
            with Image.open(file) as image:
                for split, n in N_PARTS.items():
                    for number in range(n):
                        part(image, draw).save(made(folder / split / label) / f"{file.stem}-{number}.png")


def part(image: Image.Image, draw: random.Random) -> Image.Image:
    """Return a part of an image, 60 to 100 % of each side, as it is."""
    width, height = (round(length * draw.uniform(0.6, 1)) for length in image.size)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.convert("RGB").crop((left, top, left + width, top + height))


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main(Path("photographs"))
