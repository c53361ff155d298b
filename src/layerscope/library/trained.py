"""`layerscope.load` and `layerscope.with_preprocessing`: a checkpoint's network."""

from pathlib import Path

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.config.schema import CustomConfig
from layerscope.data.batches import Scale
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.view import see_pixels
from layerscope.networks import build_network, first_output
from layerscope.training.checkpoints import RunFacts, load_weights, read_checkpoint
from layerscope.training.preprocessing import preprocessing_of


def load(path: str | Path, target: str | None = None) -> nn.Module:
    """Return the trained network of a checkpoint, on the CPU, in eval mode.

    Its attribute `preprocessing` says what was done to the images that it was trained on; a network
    that has such an attribute of its own keeps that.

    Args:
        target: `module.Class` of a user's own network; one named in a checkpoint is not trusted.

    Raises:
        UserError: the file is missing, unreadable, not ours, or of another architecture.
    """
    checkpoint = read_checkpoint(path)
    config = RunFacts.of(checkpoint).parsed_config().model
    if isinstance(config, CustomConfig) and target is None:
        raise UserError(
            f"the network of {path} is a user's own class, which is never taken from a file: name "
            f"it yourself, layerscope.load(..., target={config.target!r})"
        )
    network = build_network(config, target)
    load_weights(network, checkpoint)
    if not hasattr(network, "preprocessing"):
        vars(network)["preprocessing"] = preprocessing_of(checkpoint)  # plain data, no submodule
    return network.eval()


def with_preprocessing(network: nn.Module) -> "PixelNetwork":
    """Return a module that takes raw pixels and returns the outputs of a loaded network.

    Pixels are uint8 RGB, (N, 3, S, S), where S is `network.preprocessing.stored_size`, the size of
    the data set's images (32 of CIFAR-10). The module makes them gray and smaller or larger, as the
    network was trained, normalises them, and runs the network, which it holds and does not copy. It
    exports: `torch.export.export(module, (pixels,))`.

    Raises:
        UserError: the network is not one that `layerscope.load` has returned.
    """
    preprocessing = getattr(network, "preprocessing", None)
    if isinstance(preprocessing, Preprocessing):
        return PixelNetwork(network, preprocessing)
    if preprocessing is None:
        raise UserError(
            f"the {type(network).__name__} does not know its preprocessing: take the network that "
            "layerscope.load(checkpoint) returns"
        )
    raise UserError(
        f"the {type(network).__name__} has an attribute `preprocessing` of its own, a "
        f"{type(preprocessing).__name__}: rename that one, and layerscope.load sets what it needs"
    )


class PixelNetwork(nn.Module):
    """A network with its preprocessing before it; see `with_preprocessing`."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        first = next(network.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        self.preprocessing = preprocessing
        self.scale = Scale(preprocessing.normalisation, preprocessing.view, device)
        self.network = network
        self.training = network.training

    def forward(self, pixels: Tensor) -> Tensor:
        """Map raw pixels (N, 3, S, S), uint8, to outputs (N, num_classes).

        Raises:
            UserError: the pixels have another shape or type.
        """
        size = self.preprocessing.stored_size
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, size, size):
            raise UserError(
                f"pixels are {str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}: "
                f"give uint8 of shape (N, 3, {size}, {size}), as an image file has them"
            )
        seen = see_pixels(pixels.permute(0, 2, 3, 1).contiguous(), self.preprocessing.view)
        return first_output(self.network(self.scale(seen)))
