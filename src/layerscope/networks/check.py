"""Does this network take these images and give these classes? Asked before any data is read."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException

from layerscope.config import NetworkBase
from layerscope.errors import UserError
from layerscope.networks.registry import first_output

REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AssertionError,  # what torch._assert raises
    UnsupportedFakeTensorException,
)


def check_network(network: nn.Module, config: NetworkBase) -> int:
    """How many tensors the network returns in train mode.

    Only shapes are worked out, by torch's fake tensors: no kernel runs and the network stays as it
    is.

    Raises:
        UserError: it refuses model.input_shape, or does not return (N, model.num_classes).
    """
    shape = list(config.input_shape)
    try:
        outputs = _fake_outputs(network, config.input_shape)
    except REFUSALS as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the network cannot take model.input_shape={shape}: change it ({reason})"
        ) from error
    found = tuple(first_output(outputs).shape[1:])
    if found != (config.num_classes,):
        raise UserError(
            f"the network makes {found} of an image, not ({config.num_classes},): "
            "change model.num_classes, or the network"
        )
    return len(outputs) if isinstance(outputs, (tuple, list, dict)) else 1


def _fake_outputs(network: nn.Module, input_shape: tuple[int, int, int]) -> Any:
    """In train mode, where some networks return more; batch norm's statistics are put back."""
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it would print a refusal's traceback
    network.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            return network(torch.empty(2, *input_shape))
    finally:
        log.setLevel(level)
        for module, training in modes.items():
            module.training = training
        for name, buffer in network.named_buffers():
            _restore(buffer, buffers[name])


def _restore(buffer: Tensor, saved: Tensor) -> None:
    with torch.no_grad():
        buffer.copy_(saved)
