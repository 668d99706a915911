"""Lines of text for a recogniser, and how many of them it reads: in fonts and texts other than those that calibrate."""

import random
import string
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

from benchmarks.real_opponents import runner_of

N_LINES = 500
_SHAPE = (48, 320)
_FONTS = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10")
_PARTS = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "xi",
    "zo",
)


def lines(n: int = N_LINES) -> tuple[np.ndarray, list[str]]:
    """Return images of lines, float32 (n, 3, 48, 320) from -1 to 1, and their texts."""
    draw, folder = random.Random(500), Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    texts = [_text(draw) for _ in range(n)]
    images = [_image(draw, text, folder / f"{draw.choice(_FONTS)}.ttf") for text in texts]
    return np.stack(images), texts


def read(file: Path, images: np.ndarray, characters: Sequence[str]) -> list[str]:
    """Return what a recogniser reads: the likeliest class of each step, repeats and blanks left out."""
    runner = runner_of(file)
    found = []
    for at in range(0, len(images), 20):
        (answers,) = runner.run(images[at : at + 20])
        found += [_decoded(classes, characters) for classes in answers.argmax(-1)]
    return found


def said(file: Path, reference: Path) -> str:
    """Return how many lines a file and its reference read right, and how many the file reads otherwise."""
    images, texts = lines()
    characters = _characters(reference)
    its, wanted = (read(each, images, characters) for each in (file, reference))
    right, right_before = (sum(map(str.__eq__, each, texts)) for each in (its, wanted))
    n_other = sum(a != b for a, b in zip(its, wanted, strict=True))
    return f"{right} of {len(texts)} lines right; float {right_before}; {n_other} read otherwise"


def _decoded(classes: Sequence[int], characters: Sequence[str]) -> str:
    kept = [int(c) for at, c in enumerate(classes) if c and (at == 0 or c != classes[at - 1])]
    return "".join(characters[c - 1] for c in kept).strip()


def _characters(file: Path) -> list[str]:
    """Return the characters of a recogniser's classes behind the blank, as its metadata names them."""
    metadata = {each.key: each.value for each in onnx.load(str(file), load_external_data=False).metadata_props}
    return [*metadata["character"].split("\n"), " "]


def _text(draw: random.Random) -> str:
    words = []
    for _ in range(draw.randint(1, 3)):
        word = "".join(draw.choice(_PARTS) for _ in range(draw.randint(1, 3)))
        words.append(
            draw.choice(
                [word, word.capitalize(), str(draw.randint(0, 99999)), draw.choice(string.ascii_uppercase) + word]
            )
        )
    return " ".join(words)


def _image(draw: random.Random, text: str, font: Path) -> np.ndarray:
    height, width = _SHAPE
    sheet = Image.new("RGB", (width, height), tuple(draw.randint(160, 255) for _ in range(3)))
    written = ImageFont.truetype(str(font), draw.randint(20, 34))
    while written.getlength(text) > width - 12:
        written = ImageFont.truetype(str(font), written.size - 2)
    at = (draw.randint(3, 9), draw.randint(0, 8))
    ImageDraw.Draw(sheet).text(at, text, font=written, fill=tuple(draw.randint(0, 110) for _ in range(3)))
    pixels = np.asarray(sheet)[:, :, ::-1].astype(np.float32)
    return ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)
