"""Does this network take these images and give these classes? Asked before any data is read."""

from typing import Any

from torch import nn

from layerscope.config import NetworkBase
from layerscope.errors import UserError
from layerscope.layers import fake_forward, untouched
from layerscope.networks.registry import first_output


def check_network(network: nn.Module, config: NetworkBase) -> int:
    """How many tensors the network returns in train mode, where some return more.

    No kernel runs and the network stays as it is.

    Raises:
        UserError: it refuses model.input_shape, or does not return (N, model.num_classes).
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{type(network).__name__} has no parameters to train")
    with untouched(network):
        _outputs(network.eval(), config)
        outputs = _outputs(network.train(), config)
    found = tuple(first_output(outputs).shape[1:])
    if found != (config.num_classes,):
        raise UserError(
            f"the network makes {found} of an image, not ({config.num_classes},): "
            "change model.num_classes, or the network"
        )
    return len(outputs) if isinstance(outputs, (tuple, list, dict)) else 1


def _outputs(network: nn.Module, config: NetworkBase) -> Any:
    try:
        return fake_forward(network, (2, *config.input_shape))
    except UserError as error:
        shape = list(config.input_shape)
        raise UserError(f"model.input_shape={shape} does not fit: {error}") from error
