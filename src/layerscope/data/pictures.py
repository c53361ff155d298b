"""Picture files of any kind, decoded to square images: those of a data set and those of a user."""

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Each is decoded in this process; of others, like EPS, Pillow lets another program run the file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpg", ".jpeg", ".png", ".pbm", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
)
MAX_PIXELS = 2**30 // 4 // 3  # above, Pillow warns of a decompression bomb
# What Pillow's decoders raise for bytes that they cannot decode.
_UNDECODABLE = (
    UnidentifiedImageError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
)


class PictureError(Exception):
    """A file is no picture that can be used; the message says why, and what to do."""


def read_picture(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the central square of a picture, scaled to (size, size, 3), what is transparent white.

    Raises:
        PictureError: the file is missing, no picture, too large, or has more than 8 bits.
    """
    if os.path.exists(path) and not path.is_file():  # to open a pipe would wait for ever
        raise PictureError("is no file: give a picture file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError("has too many pixels: scale it down first")
            return square_pixels(image, size)
    except FileNotFoundError as error:
        raise PictureError("does not exist: give a picture file") from error
    except Image.DecompressionBombError as error:  # of twice as many
        raise PictureError("has too many pixels: scale it down first") from error
    except _UNDECODABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise PictureError(
            f"is no picture that can be read ({reason}): give a file of the kind "
            + ", ".join(FORMATS)
        ) from error


def square_pixels(image: Image.Image, size: int | None = None) -> NDArray[np.uint8]:
    """Return the central square of an opened picture as (size, size, 3); by default unscaled.

    Raises:
        PictureError: it has more than 8 bits.
    """
    if image.mode.startswith(("I", "F")):
        raise PictureError("has more than 8 bits: convert it to 8 first")
    photo = _on_white(ImageOps.exif_transpose(image))
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    if size is not None and side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.uint8)


@contextmanager
def without_bomb_warnings() -> Iterator[None]:
    """Silence Pillow's warning of large pictures, which `read_picture` refuses itself.

    Enter this before threads are started: the filters of warnings are shared by all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _on_white(image: Image.Image) -> Image.Image:
    """Lay what is transparent on white, since the colours that it hides are nobody's choice."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
