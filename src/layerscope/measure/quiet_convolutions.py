"""Keep the profiler from recording the inside of grouped convolutions on a CPU.

torch runs some of them group by group (1×1 kernels with one thread, float64). Each channel of a
depthwise convolution is then some thirty operations, and the profiler takes ten times as long as
the step. Nothing is lost without them: they have no FLOPs, and an allocation belongs to the
outermost operation.

A dispatch mode hides the inside of the forward: it runs after the profiler has noted the
convolution itself. A mode cannot hide the backward, because autograd sums gradients in another way
once Python has held them. There recording stops when the node unpacks its first saved tensor. It
resumes when autograd releases the saved tensors, after the convolution's backward and before the
sums of gradients. Only the node then stands for the backward.

Its two names and the classes below are torch's. An instrument may not ask operations/ for them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# torch has no public way to pause the profiler's recording, or to ask for hooks on saved tensors.
from torch._C import _autograd  # pyright: ignore[reportPrivateImportUsage]
from torch.autograd.graph import saved_tensors_hooks

# torch documents TorchDispatchMode, but has no public name for it.
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope.layers.calls import Call
from layerscope.measure.activations import detached

NODE = "ConvolutionBackward0"
OPERATION = "aten::convolution_backward"


class QuietConvolutions:
    """Stops recording inside grouped convolutions; needs to be told of every call.

    Attributes:
        nodes: numbers of the nodes whose operation was not recorded.
    """

    def __init__(self) -> None:
        self.nodes: set[int] = set()
        self._call: Call | None = None
        self._mode = _Unrecorded()
        self._hooks = saved_tensors_hooks(_RecordingGuard, self._unpack)
        self._has_hooks = False

    def layer_began(self, call: Call) -> None:
        """Start to hide the inside of the call, if it is a grouped convolution."""
        if self._call is not None or not _is_plain_grouped_convolution(call):
            return
        self._call = call
        self._mode.__enter__()
        # Other hooks (of a checkpoint, save_on_cpu) decide what is saved: leave them alone.
        self._has_hooks = not _are_hooks_taken()
        if self._has_hooks:
            self._hooks.__enter__()

    def layer_ended(self, call: Call) -> None:
        """Stop hiding, if this is the end of the hidden call."""
        if self._call is call:
            self._call = None
            if self._has_hooks:
                self._hooks.__exit__()
            self._mode.__exit__(None, None, None)

    def _unpack(self, saved: "_RecordingGuard") -> torch.Tensor:
        node = torch._C._current_autograd_node()
        if node is not None and node.name() == NODE:
            self.nodes.add(node._sequence_nr())
            saved.is_unpacked = True
            _autograd._enable_record_function(False)
        return saved.tensor


class _Unrecorded(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation, which is already recorded, and record nothing inside it."""
        _autograd._enable_record_function(False)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            _autograd._enable_record_function(True)


class _RecordingGuard:
    """A saved tensor; when autograd releases it, recording resumes."""

    __slots__ = ("is_unpacked", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = detached(tensor)
        self.is_unpacked = False

    def __del__(self) -> None:
        if self.is_unpacked:
            _autograd._enable_record_function(True)


def _is_plain_grouped_convolution(call: Call) -> bool:
    """Tell whether the call runs a grouped convolution and nothing else."""
    module = call.module
    if call.operation is not None or not isinstance(module, nn.Conv1d | nn.Conv2d):
        return False
    return (
        type(module) in (nn.Conv1d, nn.Conv2d)  # A parametrization has a class of its own.
        and module.groups > 1
        and module.padding_mode == "zeros"
        and len(module._forward_pre_hooks)
        == len(module._forward_hooks)
        == 1  # those of the tracker
    )


def _are_hooks_taken() -> bool:
    return (
        _autograd._saved_tensors_hooks_get_disabled_error_message() is not None
        or _autograd._top_saved_tensors_default_hooks(False) is not None
    )
