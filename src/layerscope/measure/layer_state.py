"""Whose a network's parameters and buffers are, seen while it runs."""

from typing import Any

import torch
from torch import nn

from layerscope.layers.calls import Call
from layerscope.layers.tensors import tensors_in


class LayerState:
    """Gives every parameter and buffer of the network to the first layer that has it.

    A module has its own; an operation those among its arguments.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._known: dict[int, torch.Tensor] = {}
        self._given: dict[int, torch.Tensor] = {}  # holds the tensors, so that no id is used again

    def forward_began(self) -> None:
        """Buffers may be others than in the forward before."""
        tensors = [*self._network.parameters(), *self._network.buffers()]
        self._known = {id(tensor): tensor for tensor in tensors}

    def first_seen(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[torch.Tensor]:
        """What this call has and no call before it had."""
        if call.operation is None:
            tensors = [*call.module.parameters(), *call.module.buffers()]
        else:
            tensors = [tensor for tensor in tensors_in((args, kwargs)) if id(tensor) in self._known]
        new = {id(tensor): tensor for tensor in tensors if id(tensor) not in self._given}
        self._given.update(new)
        return list(new.values())
