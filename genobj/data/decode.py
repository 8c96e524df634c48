"""One image file into pixels: by Pillow, with every surprise refused in words."""

import io
from typing import Literal

import numpy as np
from PIL import Image

from genobj.data.files import Unreadable

Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
"""uint8 (channels, height, width)."""
Fit = Literal["exact", "centre"]
"""What is done to a file of another size or colour than wanted: it is refused, or cropped, scaled and converted."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")
MODES = {1: "L", 3: "RGB"}
LARGEST = 2**26
"""Pixels of an image at most: a tiny file can claim any number."""
TOO_LARGE = "claims more pixels than an image of a data set has"
_DEEP_PNG = b"\x89PNG\r\n\x1a\n", 24, 16  # signature, where the bits per sample stand, and how many are too many
NAMES = {"L": "grey", "RGB": "RGB", "RGBA": "RGB with transparency", "P": "of a palette", "CMYK": "CMYK"}


def decode(data: bytes, size: int, channels: int, fit: Fit) -> Pixels:
    """The image as (channels, size, size) uint8; raises Unreadable."""
    signature, place, deep = _DEEP_PNG
    if data.startswith(signature) and data[place : place + 1] == bytes([deep]):  # Pillow would drop the lower bits
        raise Unreadable("has 16 bits per colour; write it with 8")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.ascontiguousarray(_pixels(image, size, channels, fit).transpose(2, 0, 1))
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable(f"is no image of the formats {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit, which is higher
        raise Unreadable(TOO_LARGE) from None
    except Exception as error:  # damaged files make decoders raise anything
        raise Unreadable(f"is damaged or cut short ({error or type(error).__name__})") from None


def _pixels(image: Image.Image, size: int, channels: int, fit: Fit) -> np.ndarray:
    width, height = image.size
    if width * height > LARGEST:
        raise Unreadable(TOO_LARGE)
    if image.mode == "F" or image.mode.startswith("I"):
        raise Unreadable("has 16 bits per colour or more; write it with 8")
    if fit == "centre":
        image = _centred(_converted(image, MODES[channels]), size)
    elif image.size != (size, size):
        hint = f"type data.resolution={width}" if width == height else "make all images square and of one size"
        raise Unreadable(f"has {width} x {height} pixels, the data {size} x {size}; {hint}")
    elif image.mode != MODES[channels]:
        hint = "; if all images are grey, type data.channels=1" if image.mode == "L" else ""
        raise Unreadable(f"is {NAMES.get(image.mode, image.mode)}, the data {NAMES[MODES[channels]]}{hint}")
    return np.asarray(image).reshape(size, size, channels)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """As data loaders of the field convert: transparency is dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _centred(image: Image.Image, size: int) -> Image.Image:
    """ADM's crop (arXiv 2105.05233): halved by box filter while both sides stay at least twice `size`, then scaled by
    bicubic interpolation so that the short side is `size`, then cut to the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
