"""Fused LSTM layers on fake tensors: the kernel that a CPU takes, and its workspace.

On fake tensors torch decomposes an LSTM whose input requires a gradient. A CPU runs one fused
kernel for each layer and direction. Only oneDNN knows the size of that kernel's workspace: this one
operation runs for real, on zeros, to find it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

# torch has no public access to the decomposition that it takes for an LSTM.
from torch._decomp import decompositions

aten = torch.ops.aten
LAYER = aten.mkldnn_rnn_layer.default
LAYER_BACKWARD = aten.mkldnn_rnn_layer_backward.default
_LSTM = 2  # ideep::rnn_kind::LSTM


@contextmanager
def fused_layers(is_training: Callable[[], bool]) -> Iterator[None]:
    """Let an LSTM on fake tensors run the fused kernel if a CPU would.

    Args:
        is_training: tells whether the running LSTM is in training mode.
    """
    original = decompositions.select_one_layer_lstm_function

    def select(input: Tensor, hidden: Sequence[Tensor], parameters: Any) -> Callable[..., Any]:
        is_fused = input.device.type == "cpu" and hidden[0].size(2) == hidden[1].size(2)
        is_fused = is_fused and input.dtype in (torch.float32, torch.bfloat16)
        if not is_fused or not torch._C._get_mkldnn_enabled():
            return original(input, hidden, parameters)
        return lambda *args, **kwargs: _one_layer(is_training(), *args, **kwargs)

    decompositions.select_one_layer_lstm_function = select
    try:
        yield
    finally:
        decompositions.select_one_layer_lstm_function = original


def _one_layer(
    train: bool,
    input: Tensor,
    hidden: Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    weights = list(parameters[:2])
    biases = list(parameters[2:4]) if has_biases else [input.new_zeros(w.shape) for w in weights]
    state = [tensor.unsqueeze(0).contiguous() for tensor in hidden]
    size = state[0].size(2)
    output, h, c, _ = LAYER(
        input.contiguous(),
        *weights,
        *biases,
        *state,
        reverse,
        [],
        _LSTM,
        size,
        1,
        has_biases,
        False,
        False,
        train,
    )
    return output, (h.squeeze(0), c.squeeze(0))


@cache
def workspace_elements(
    shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, settings: tuple[Any, ...]
) -> tuple[int, torch.dtype]:
    """Return size and dtype of the workspace, by running the kernel on zeros.

    Args:
        shapes: shapes of input, weights, biases and state.
        settings: the operation's other arguments.
    """
    with torch._C._DisableTorchDispatch():
        tensors = [torch.zeros(shape, dtype=dtype) for shape in shapes]
        workspace = LAYER(*tensors, settings[0], [], *settings[2:])[3]
    return workspace.numel(), workspace.dtype
