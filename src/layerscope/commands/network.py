"""The network of a profile or an explanation: one that is configured, or a checkpoint's."""

import re
from typing import Any

from torch import nn

from layerscope.base.errors import UserError
from layerscope.commands.runner import Request
from layerscope.config.compose import path_value
from layerscope.config.overrides import key_of
from layerscope.config.schema import CustomConfig, NetworkConfig, TorchvisionConfig
from layerscope.training.checkpoints import read_checkpoint


def given_checkpoint(request: Request) -> dict[str, Any] | None:
    """Return the checkpoint that `ckpt_path` names; None where there is none."""
    if request.values["ckpt_path"] is None:
        return None
    return read_checkpoint(path_value(request.values, "ckpt_path"))


def network_name(config: NetworkConfig, network: nn.Module) -> str:
    """For the reports: torchvision's own name, a user's class, or the name of ours."""
    if isinstance(config, TorchvisionConfig):
        return config.name
    return type(network).__name__ if isinstance(config, CustomConfig) else config.family


def refuse_groups(overrides: tuple[str, ...], groups: tuple[str, ...], what: str) -> None:
    """Refuse parts of a network's recipe, which the configuration holds without using them."""
    for override in overrides:
        if re.split("[.@]", key_of(override))[0] in groups:
            raise UserError(f"{override} says nothing about {what}: leave it out")


def refuse_another_network(overrides: tuple[str, ...]) -> None:
    """Beside a checkpoint only a user's own class is named again."""
    for override in overrides:
        is_own_class = override == "model=custom" or key_of(override) == "model._target_"
        if key_of(override).split(".")[0] == "model" and not is_own_class:
            raise UserError(f"{override}: the checkpoint says which network it is; leave it out")
