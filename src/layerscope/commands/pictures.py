"""Pictures that predict and explain show to a trained network."""

import os
import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from layerscope.base.errors import UserError
from layerscope.data.batches import Scale
from layerscope.data.synthetic import SIZE
from layerscope.data.view import see_images
from layerscope.training.preprocessing import preprocessing_of

# Each is decoded in this process; of others, like EPS, Pillow lets another program run the file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Return the central square, (1, 32, 32, 3), scaled down as the data set's images once were.

    Raises:
        UserError: the file is missing, or no picture.
    """
    if os.path.exists(path) and not path.is_file():  # to open a pipe would wait for ever
        raise UserError(f"image={path} is no file: give a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.mode.startswith(("I", "F")):
                    raise UserError(f"image={path} has more than 8 bits: convert it to 8 first")
                photo = _on_white(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise UserError(f"image={path} does not exist: give a picture file") from error
    except UserError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"image={path} is no picture that can be read ({reason}): give a file of the kind "
            + ", ".join(FORMATS)
        ) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"image={path} has too many pixels: scale it down first") from error
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    if side != SIZE:
        square = square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.uint8)[None]


def _on_white(image: Image.Image) -> Image.Image:
    """Lay what is transparent on white, since the colours that it hides are nobody's choice."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def network_input(checkpoint: dict[str, Any], images: NDArray[np.uint8]) -> Tensor:
    """Return images (N, 32, 32, 3) as the network was trained to see them, (N, C, H, W)."""
    preprocessing = preprocessing_of(checkpoint)
    pixels = torch.from_numpy(see_images(images, preprocessing.view).copy())
    scale = Scale(preprocessing.normalisation, preprocessing.view, torch.device("cpu"))
    return scale(pixels)


def picture(path: Path) -> bytes:
    """Return what `read_photo` reads as a PNG, to look at.

    Raises:
        UserError: the file is missing, or no picture.
    """
    (pixels,) = read_photo(path)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
