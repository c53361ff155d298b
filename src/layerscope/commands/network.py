"""The network of a profile or an explanation: one that is configured, or a checkpoint's."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.commands.runner import Request
from layerscope.config.overrides import key_of
from layerscope.config.schema import CustomConfig, NetworkConfig, TorchvisionConfig
from layerscope.networks import build_network
from layerscope.training.checkpoints import read_checkpoint


def given_checkpoint(request: Request) -> dict[str, Any] | None:
    """Return the checkpoint that `ckpt_path` names; None where there is none."""
    path = request.config.ckpt_path
    return None if path is None else read_checkpoint(Path(path))


def warning_of_random_buffers(network: nn.Module, config: NetworkConfig, target: str | None) -> str:
    """Warn of buffers that are random and in no checkpoint, since they are `persistent=False`.

    Args:
        network: what `build_network` has made of the configuration; another one is made to compare.
    """
    saved = network.state_dict().keys()
    unsaved = {name: value for name, value in network.named_buffers() if name not in saved}
    if not unsaved:
        return ""
    again = dict(build_network(config, target).named_buffers())
    random = [n for n, value in unsaved.items() if n in again and not _same(value, again[n])]
    if not random:
        return ""
    return (
        f"the buffer {random[0]} is random and in no checkpoint, so that each program that opens "
        "one has other numbers in it: register it with persistent=True"
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Compare values; nan equals nan."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if torch.equal(one, other) or not one.is_floating_point():
        return torch.equal(one, other)
    return bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())


def network_name(config: NetworkConfig, network: nn.Module) -> str:
    """Return the name for reports: torchvision's own, a user's class, or the name of ours."""
    if isinstance(config, TorchvisionConfig):
        return config.name
    return type(network).__name__ if isinstance(config, CustomConfig) else config.family


def refuse_another_network(overrides: tuple[str, ...]) -> None:
    """Refuse to name a network beside a checkpoint, but for a user's own class."""
    for override in overrides:
        is_own_class = override == "model=custom" or key_of(override) == "model._target_"
        if key_of(override).split(".")[0] == "model" and not is_own_class:
            raise UserError(f"{override}: the checkpoint says which network it is; leave it out")
