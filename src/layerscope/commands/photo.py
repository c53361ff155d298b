"""The picture that a trained network is explained with."""

from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor


def photo(path: str, checkpoint: dict[str, Any]) -> Tensor:
    """(1, C, H, W), as the checkpoint's network was trained to see a picture.

    Raises:
        UserError: the file is missing, or no picture.
    """
    from layerscope.commands.predict import network_input, read_photo  # imports Lightning

    return network_input(checkpoint, read_photo(Path(path)))


def picture(path: str) -> bytes:
    """What `photo` reads, before it is normalised: a PNG, to look at.

    Raises:
        UserError: the file is missing, or no picture.
    """
    from layerscope.commands.predict import read_photo  # imports Lightning

    (pixels,) = read_photo(Path(path))
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
