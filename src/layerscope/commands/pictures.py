"""Pictures that predict and explain show to a trained network."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from layerscope.base.errors import UserError
from layerscope.data.batches import Scale
from layerscope.data.pictures import PictureError, read_picture, without_bomb_warnings
from layerscope.data.view import see_images
from layerscope.training.preprocessing import preprocessing_of


def read_photo(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the central square, (1, size, size, 3), scaled as the data set's images once were.

    Args:
        size: of the images as the checkpoint's data set stores them, `Preprocessing.stored_size`.

    Raises:
        UserError: the file is missing, or no picture.
    """
    try:
        with without_bomb_warnings():
            return read_picture(path, size)[None]
    except PictureError as error:
        raise UserError(f"image={path} {error}") from error


def read_photo_for(checkpoint: dict[str, Any], path: Path) -> NDArray[np.uint8]:
    """Return what `read_photo` reads for the checkpoint's network."""
    return read_photo(path, preprocessing_of(checkpoint).stored_size)


def network_input(checkpoint: dict[str, Any], images: NDArray[np.uint8]) -> Tensor:
    """Return images (N, S, S, 3) as the network was trained to see them, (N, C, H, W)."""
    preprocessing = preprocessing_of(checkpoint)
    pixels = torch.from_numpy(see_images(images, preprocessing.view).copy())
    scale = Scale(preprocessing.normalisation, preprocessing.view, torch.device("cpu"))
    return scale(pixels)


def picture(pixels: NDArray[np.uint8]) -> bytes:
    """Return one of the images that `read_photo` reads, (S, S, 3), as a PNG to look at."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
