"""Show what a checkpoint's network takes a picture for."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from layerscope.base.errors import UserError
from layerscope.base.formatting import percent
from layerscope.base.targets import target_of
from layerscope.commands.checkpoint import Opened, open_checkpoint
from layerscope.commands.pictures import network_input, read_photo
from layerscope.commands.runner import Job, Request
from layerscope.networks import build_network, first_output
from layerscope.report.terminal import Screen
from layerscope.training.checkpoints import load_weights
from layerscope.training.preprocessing import preprocessing_of


def check_prediction(request: Request) -> Job:
    """Open the checkpoint and the photo."""
    opened = open_checkpoint(request)
    path = Path(request.config.image)
    return partial(show_prediction, opened, path, read_photo(path))


def predict(opened: Opened, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the softmax probabilities (N, num_classes) of images (N, 32, 32, 3)."""
    network = build_network(opened.config.model, target_of(opened.targets))
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


def show_prediction(opened: Opened, path: Path, images: NDArray[np.uint8], _: Path) -> None:
    """Print the classes, most probable first."""
    (shares,) = predict(opened, images)
    names = preprocessing_of(opened.checkpoint).view.class_names
    order = np.argsort(-shares, kind="stable")
    Screen().table(
        f"{path.name}: {names[order[0]]}",
        ("class", "probability"),
        [(names[index], percent(float(shares[index]))) for index in order],
    )
