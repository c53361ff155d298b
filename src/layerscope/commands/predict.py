"""One photo through a checkpoint's network: scripts/predict.py."""

import os
import struct
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from layerscope.base.errors import UserError
from layerscope.commands.evaluate import Opened, open_checkpoint
from layerscope.commands.runner import Job, Request
from layerscope.config.compose import path_value
from layerscope.data.batches import Scale
from layerscope.data.synthetic import SIZE
from layerscope.data.view import see_images
from layerscope.networks import build_network, first_output
from layerscope.report.terminal import Screen, percent
from layerscope.training.checkpoints import load_weights
from layerscope.training.seen import preprocessing_of

# Each is decoded in this process; of others, like EPS, Pillow lets another program run the file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def check_prediction(config_dir: Path, request: Request) -> Job:
    """Open the checkpoint and the photo."""
    opened = open_checkpoint(request, config_dir)
    path = path_value(request.values, "image")
    return partial(show_prediction, opened, path, read_photo(path))


def read_photo(path: Path) -> NDArray[np.uint8]:
    """(1, 32, 32, 3): the central square, scaled down as the data set's images once were."""
    if os.path.exists(path) and not path.is_file():  # to open a pipe would wait for ever
        raise UserError(f"image={path} is no file: give a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.mode.startswith(("I", "F")):
                    raise UserError(f"image={path} has more than 8 bits: convert it to 8 first")
                photo = ImageOps.exif_transpose(image).convert("RGB")
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


def predict(opened: Opened, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Softmax probabilities (N, num_classes) of images (N, 32, 32, 3), in float32 on the CPU."""
    network = build_network(opened.config.model, opened.target)
    load_weights(network, opened.checkpoint)
    with torch.no_grad():
        outputs = first_output(network.eval()(network_input(opened.checkpoint, images)))
    shares = outputs.double().softmax(1).numpy()
    if not np.isfinite(shares).all():
        raise UserError(
            f"ckpt_path={opened.path} answers with numbers that are not finite: give an earlier "
            "checkpoint"
        )
    return shares


def network_input(checkpoint: dict[str, Any], images: NDArray[np.uint8]) -> Tensor:
    """Images (N, 32, 32, 3) as the checkpoint's network was trained to see them, (N, C, H, W)."""
    preprocessing = preprocessing_of(checkpoint)
    pixels = torch.from_numpy(see_images(images, preprocessing.view).copy())
    scale = Scale(preprocessing.normalisation, preprocessing.view, torch.device("cpu"))
    return scale(pixels)


def show_prediction(opened: Opened, path: Path, images: NDArray[np.uint8], _: Path) -> None:
    """The classes, most probable first."""
    (shares,) = predict(opened, images)
    names = preprocessing_of(opened.checkpoint).view.class_names
    order = np.argsort(-shares, kind="stable")
    Screen().table(
        f"{path.name}: {names[order[0]]}",
        ("class", "probability"),
        [(names[index], percent(float(shares[index]))) for index in order],
    )
