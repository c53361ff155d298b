"""Networks by name. Nothing that a file names is imported or called here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.base.targets import accepted, call_target, import_target
from layerscope.config.schema import CustomConfig, NetworkBase, TorchvisionConfig
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.pattern import PatternCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cifar_cnn": CifarCNN,
    "pattern": PatternCNN,
    "simple_cnn": SimpleCNN,
    "tiny_cnn": TinyCNN,
}
MAX_PARAMETERS = 2**30  # of our own networks; 4 GiB


def build_network(config: NetworkBase, trusted_target: str | None = None) -> nn.Module:
    """Build a network with new random weights.

    Args:
        trusted_target: the class of a `custom` network, typed by the user on the command line or
            passed in a call. A configuration's own `_target_` is never imported: the file may be a
            stranger's.
    """
    if isinstance(config, CustomConfig):
        return _build_custom(config, trusted_target)
    if isinstance(config, TorchvisionConfig):
        return _build_torchvision(config)
    values = config.model_dump()
    make = NETWORKS[values.pop("family")]
    with torch.device("meta"):  # The meta device takes no memory.
        num_parameters = sum(parameter.numel() for parameter in make(**values).parameters())
    if num_parameters > MAX_PARAMETERS:
        raise UserError(
            f"the network would have {num_parameters:,} parameters, at most {MAX_PARAMETERS:,} are "
            "built: lower model.channels or model.width"
        )
    return make(**values)


def first_output(outputs: Any) -> Tensor:
    """Return the first tensor, on which a network with several outputs is trained."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, dict):
        return first_output(next(iter(outputs.values())))
    if isinstance(outputs, (tuple, list)) and outputs:
        return first_output(outputs[0])
    raise UserError(
        f"the network returns {type(outputs).__name__}, not a tensor or a tuple of them"
    )


def _build_torchvision(config: TorchvisionConfig) -> nn.Module:
    import torchvision.models as zoo  # It takes a second, and our own networks do not need it.

    names = zoo.list_models(module=zoo)
    if config.name not in names:
        raise UserError(
            f"model.name={config.name} is no torchvision classifier: choose one of "
            + ", ".join(names)
        )
    constructor = zoo.get_model_builder(config.name)
    arguments: dict[str, Any] = {"weights": None, "num_classes": config.num_classes}
    if config.name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = True  # It is their default, but leaving it out warns.
    return constructor(**arguments)


def _build_custom(config: CustomConfig, trusted_target: str | None) -> nn.Module:
    if trusted_target is None:
        raise UserError(
            "this network is a user's own class, which is never taken from a file: "
            f"name it yourself, model._target_={config.target}"
        )
    target = import_target("model._target_", trusted_target)
    offered = {"num_classes": config.num_classes, "input_shape": config.input_shape}
    arguments = accepted(trusted_target, target, "model", offered)
    network = call_target(trusted_target, target, "model", **{**arguments, **config.arguments})
    if not isinstance(network, nn.Module):
        raise UserError(
            f"model._target_={trusted_target} makes a {type(network).__name__}, not an nn.Module"
        )
    return network
