"""One image file as pixels: upright, grey or colour, in its own number of levels.

Pixels of more than 8 bits are read whole. Cameras and X-ray machines write 10 or 12 bits into files of 16, so the
largest value of a set tells how many bits are in use.
"""

import contextlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.data.transforms import Shaping

if TYPE_CHECKING:
    from PIL.Image import Image

_DEPTHS = (8, 10, 12, 14, 16)
_HALVED = re.compile(r";16[BLN]")  # PIL's names for pixels of 16 bits that it turns into 8
_GRAY_MODES = ("1", "L", "LA")
_WIDE_MODES = ("I", "F")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: how the camera was held, and on its side


@dataclass(frozen=True, eq=False)
class Picture:
    """The pixels of one image file.

    Attributes:
        path: the file.
        pixels: `(C, H, W)`, uint8, or int32 if the file holds more than 8 bits.
        largest: the largest value before any resizing.
        is_halved: only the upper 8 of 16 bits could be read, of a colour image.
    """

    path: Path
    pixels: Tensor
    largest: int = 0
    is_halved: bool = False


@cache
def suffixes() -> tuple[str, ...]:
    """Return the suffixes of image files."""
    from PIL import features
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return (*IMG_EXTENSIONS, ".jpe", ".jfif", *((".avif",) if features.check("avif") else ()))


@dataclass(frozen=True)
class Header:
    """The facts about an image in its file, before any pixel is decoded: its size, upright, whether it is grey, and
    whether a pixel may have more than 8 bits."""

    path: Path
    height: int
    width: int
    is_grey: bool
    is_wide: bool


def header(path: Path) -> Header:
    """Read the header of one image.

    Raises:
        UsageError: the file is no image.
    """
    import PIL.Image

    try:
        doors.check_file(path)  # opening a pipe would wait for its other end
        with warnings.catch_warnings(action="ignore", category=UserWarning), PIL.Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
            mode = image.mode
            is_wide = mode.startswith("I") or mode in _WIDE_MODES or _is_halved(image)
            is_grey = mode in _GRAY_MODES or mode.startswith("I")
    except Exception as error:  # as in `read`
        raise UsageError(
            f"{path} is not a readable image ({error}); images.broken = 'skip' leaves such files out"
        ) from error
    height, width = (width, height) if turned else (height, width)
    return Header(path, height, width, is_grey, is_wide)


def read(path: Path, shaping: Shaping) -> Picture:
    """Read one image, upright, in the size of the shaping: one channel if the image is grey, three otherwise.

    Raises:
        UsageError: the file is no image, or an image of more than 16 bits.
    """
    import PIL.Image

    try:
        doors.check_file(path)
        # PIL warns of broken EXIF
        with warnings.catch_warnings(action="ignore", category=UserWarning), PIL.Image.open(path) as image:
            doors.check_pixels(image.width * image.height * len(image.getbands()), str(path))
            is_halved, kind = _is_halved(image), image.format
            image.load()
            pixels = _pixels(_upright(image), kind)
    except UsageError:
        raise
    # PIL's decoders fail in many ways on a broken file: OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise UsageError(
            f"{path} is not a readable image ({error}); images.broken = 'skip' leaves such files out"
        ) from error
    largest = int(pixels.max()) if pixels.dtype != np.uint8 or is_halved else 0
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    return Picture(path, shaping(tensor)[0], largest, is_halved)


def depth(pictures: Sequence[Picture]) -> int:
    """Return the bits in use of a set of pictures: 8, or up to 16 if files hold more.

    Raises:
        UsageError: colour images use so few of 16 bits that their upper 8 bits have no levels.
    """
    halved = [picture for picture in pictures if picture.is_halved]
    if halved and max(picture.largest for picture in halved) < 1 << (_DEPTHS[-2] - 8):
        raise UsageError(
            f"{halved[0].path} has 16 bits a channel in colour, of which the upper ones are not in use, and only the "
            "upper 8 can be read; convert the images to 8 bits"
        )
    largest = max((picture.largest for picture in pictures if not picture.is_halved), default=0)
    return next(bits for bits in _DEPTHS if largest < 1 << bits)


def in_eight_bits(picture: Picture, bits: int) -> Tensor:
    """Return the pixels, uint8 `(C, H, W)`, of a picture from a set of that depth."""
    pixels = picture.pixels
    return pixels if pixels.dtype == torch.uint8 else (pixels >> (bits - 8)).to(torch.uint8)


def _upright(image: "Image") -> "Image":
    """Turn an image upright: cameras write beside the pixels how they were held."""
    from PIL import ImageOps

    with contextlib.suppress(Exception):  # a broken note beside the pixels does not harm the pixels
        return ImageOps.exif_transpose(image)
    return image


def _is_halved(image: "Image") -> bool:
    """Tell whether PIL gives only the upper half of 16-bit pixels, as PIL does in colour."""
    args = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in getattr(image, "tile", ())]
    return not image.mode.startswith("I") and any(_HALVED.search(str(a[0])) for a in args if a)


def _pixels(image: "Image", kind: str | None) -> NDArray[Any]:
    """Return the pixels `(H, W, C)` of a file of this kind: uint8, or int32 for 16 bits."""
    if image.mode == "I" and kind == "PPM":  # PIL has scaled by the file's largest value to 16 bits
        return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    if image.mode == "I" and kind == "PNG":
        return np.asarray(image).astype(np.int32)[..., None]
    if image.mode in _WIDE_MODES:
        raise ValueError(f"mode {image.mode}: only images of 8 or 16 bits per channel can be read")
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.int32)[..., None]
    if image.mode in _GRAY_MODES:
        return np.array(image.convert("L"))[..., None]
    return np.array(image.convert("RGB"))
