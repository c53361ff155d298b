"""The dispatcher's FLOP counter, forward and backward, per layer.

The formulas are those of `torch.utils.flop_counter`, so the total equals `FlopCounterMode`'s. The
attribution to layers is ours: `FlopCounterMode`'s is wrong if a module's output is used twice. It
counts

- convolution: 2 per multiply-accumulate, without the bias; a transposed one per input position;
- backward of a convolution, transposed or not: the forward's count for the input's gradient, if it
  is computed, and again for the weight's. The weight's gradient of a grouped convolution counts
  `groups` times what it costs. The bias's gradient does not count;
- mm, addmm, bmm, baddbmm and the attention kernels: 2 per multiply-accumulate. A linear layer's
  bias and its gradient do not count;
- nothing else: no norm, no activation, no pooling, no addition.

No count depends on dtype, autocast, memory format or mode, nor on the values of gradients. On a CPU
the backward of a convolution is therefore counted but not computed; its gradients are zeros.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, TracebackType
from typing import Any

import torch
from torch import nn

# torch has no public name for the class of an operation.
from torch._ops import OpOverload

# torch documents TorchDispatchMode, but has no public name for it.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from layerscope.layers.calls import CallTracker
from layerscope.measure.node_layers import NodeLayers
from layerscope.measure.step import Step


@dataclass(frozen=True)
class FlopCounts:
    """An instrument's FLOPs in its own convention, without the loss.

    Args:
        forward: counts of every layer that ran, in execution order, its calls summed; 0 if nothing
            is counted. An operation outside of any layer counts for the module that called it.
        backward: counts of the same layers in the backward pass.
        total: the sum of `forward` and `backward`.
    """

    forward: Mapping[str, int]
    backward: Mapping[str, int]
    total: int

    @staticmethod
    def of(keys: Mapping[str, None], forward: Counter[str], backward: Counter[str]) -> "FlopCounts":
        """Return the counts of these layers, and of any other key that was counted."""
        everyone = dict.fromkeys([*keys, *forward, *backward])
        return FlopCounts(
            forward=MappingProxyType({key: forward[key] for key in everyone}),
            backward=MappingProxyType({key: backward[key] for key in everyone}),
            total=forward.total() + backward.total(),
        )


def flop_counts(step: Step) -> FlopCounts:
    """Run the step once and count. The network is left as it was.

    Raises:
        UserError: the network does not run.
    """
    with step.preserve_state(), FlopRecorder(step.network) as recorder:
        step.run()
    return recorder.counts


class FlopRecorder:
    """Counts one forward of the network and its backward in the `with` block.

    Args:
        tracker: the network's tracker, if there is one already. It must be entered in the block.
    """

    def __init__(self, network: nn.Module, tracker: CallTracker | None = None) -> None:
        self._nodes = NodeLayers()
        self._tracker = self._nodes.tracker = tracker or CallTracker(network)
        self._owns_tracker = tracker is None
        self._tracker.observers.append(self._nodes)
        self._mode = _CountingMode(self._tracker, self._nodes)

    @property
    def counts(self) -> FlopCounts:
        """Return the counts so far."""
        mode = self._mode
        return FlopCounts.of(self._nodes.keys, mode.forward, mode.backward)

    def __enter__(self) -> "FlopRecorder":
        if self._owns_tracker:
            self._tracker.__enter__()
        self._mode.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._mode.__exit__(kind, error, traceback)
        if self._owns_tracker:
            self._tracker.__exit__()


class _CountingMode(TorchDispatchMode):
    def __init__(self, tracker: CallTracker, nodes: NodeLayers) -> None:
        super().__init__()
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self._tracker = tracker
        self._nodes = nodes
        self._graph_task: int | None = None
        self._last_layer: str | None = None
        self._zeros = _ZeroGradients()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation; count it if it has a formula."""
        kwargs = kwargs or {}
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is None:
            if not _is_composite(func):
                return func(*args, **kwargs)
            with self:  # Inference mode does not decompose it; its parts may have formulas.
                return func.decompose(*args, **kwargs)
        output = self._zeros.instead_of(func, args) or func(*args, **kwargs)
        self._count(int(formula(*args, **kwargs, out_val=output)))
        return output

    def _count(self, flops: int) -> None:
        """Count for the running layer; in the backward pass, for the layer that made the node."""
        node = torch._C._current_autograd_node()
        if node is None:
            counts, key = self.forward, self._tracker.current_key
        else:
            counts, key = self.backward, self._layer_of(node)
        if key is not None:
            counts[key] += flops

    def _layer_of(self, node: Any) -> str | None:
        # A checkpoint runs a backward pass inside the backward pass. Its nodes are new and belong
        # to the checkpoint's layer.
        graph_task = torch._C._current_graph_task_id()
        if self._graph_task is None:
            self._graph_task = graph_task
        if graph_task == self._graph_task:
            self._last_layer = self._nodes.layer_of(node._sequence_nr())
        return self._last_layer


class _ZeroGradients:
    """Zeros in place of the gradients that a convolution's backward returns.

    Computing them takes most of a step's time, and no count depends on their values. All gradients
    are views of one block of zeros.
    """

    def __init__(self) -> None:
        self._blocks: dict[torch.dtype, torch.Tensor] = {}

    def instead_of(
        self, func: OpOverload, args: tuple[Any, ...]
    ) -> tuple[torch.Tensor | None, ...] | None:
        """Return the gradients; None if the operation has to run."""
        if func is not torch.ops.aten.convolution_backward.default or len(args) != 11:
            return None
        _, image, weight, bias_shape = args[:4]
        if image.device.type != "cpu" or torch._C._current_autograd_node() is None:
            return None
        needs_image, needs_weight, needs_bias = args[-1]
        return (
            self._like(image) if needs_image else None,
            self._like(weight) if needs_weight else None,
            weight.new_zeros(bias_shape) if needs_bias else None,
        )

    def _like(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_contiguous():
            return torch.zeros_like(tensor)
        block = self._blocks.get(tensor.dtype)
        if block is None or block.numel() < tensor.numel():
            block = self._blocks[tensor.dtype] = torch.zeros(tensor.numel(), dtype=tensor.dtype)
        return block[: tensor.numel()].view(tensor.shape)


@cache
def _is_composite(func: OpOverload) -> bool:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
