"""fvcore's operation counts per layer, in fvcore's own convention.

fvcore counts a multiply-add of a convolution or a linear layer as one; batch norm 5 per element in
training mode, 2 in eval mode; adaptive average pooling 1 per input element. What it has no formula
for (ReLU, max-pool, nn.AvgPool2d, additions, ...) it leaves out: `unsupported_ops` names those that
it does not itself hold to be free.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from layerscope.layers.calls import Call, CallObserver, track_calls, unwrapped
from layerscope.layers.tensors import tensors_in
from layerscope.layers.untouched import untouched

with warnings.catch_warnings():  # importing fvcore warns of its own use of deprecated names
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis


class FvcoreFailed(RuntimeError):
    """fvcore cannot count this network: its count is unknown, not 0."""


@dataclass(frozen=True)
class FvcoreCounts:
    """What fvcore counted.

    Args:
        layers: the count of every layer that ran, 0 where fvcore counts nothing, in execution
            order; the calls of a layer summed. The values add up to `total`.
        unsupported_ops: how often each operation that fvcore has no formula for occurred.
    """

    layers: Mapping[str, int]
    total: int
    mode: Literal["train", "eval"]
    batch_size: int
    unsupported_ops: Mapping[str, int]


def fvcore_counts(
    network: nn.Module, input_shape: tuple[int, ...], train: bool | None = None
) -> FvcoreCounts:
    """Count one forward of the network on an input of this shape, values drawn at random.

    fvcore knows modules only and would count a functional operation for the module that calls it;
    here each goes to the key of the operation itself. An operation outside any layer (inside a
    scripted submodule) goes to the module's path. The network is run, traced, and left as it was.

    Args:
        input_shape: (N, C, H, W).
        train: the mode to count in; each submodule's own present mode if not given.

    Raises:
        FvcoreFailed: the forward cannot be traced, or an operation's shapes are not fvcore's.
        UserError: a compiled or scripted network.
    """
    network = unwrapped(network)
    with untouched(network), torch.no_grad():
        if train is not None:
            network.train(train)
        first = next(network.parameters(), torch.empty(0))
        image = torch.rand(input_shape, device=first.device, dtype=first.dtype)
        scopes = _LayerScopes()
        analysis = _Analysis(_TensorOutputs(network), image)
        try:
            with track_calls(network, scopes):
                total = int(analysis.total())
        except Exception as error:  # whatever the user's forward, the tracer or a formula raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FvcoreFailed(f"fvcore cannot count {type(network).__name__}: {reason}") from error
        mode = "train" if network.training else "eval"
    return FvcoreCounts(
        layers=MappingProxyType(analysis.by_layer(scopes.keys)),
        total=total,
        mode=mode,
        batch_size=input_shape[0],
        unsupported_ops=MappingProxyType(dict(analysis.unsupported_ops())),
    )


_MARK = "layer:"  # before a layer's key in a scope name; fvcore's own scopes are module paths


class _LayerScopes(CallObserver):
    """Writes the running layer's key into the names that the tracer gives to its nodes."""

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self._pushed: list[bool] = []

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = torch._C._get_tracing_state()
        self._pushed.append(state is not None)
        if state is not None:
            state.push_scope(_MARK + call.key)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if output is not None:
            self.keys.setdefault(call.key)
        state = torch._C._get_tracing_state()
        if self._pushed.pop() and state is not None:
            state.pop_scope()


class _TensorOutputs(nn.Module):
    """The network with its outputs as a flat tuple, which is what the tracer takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensors_in(self.network(image)))


class _Analysis(FlopCountAnalysis):
    """fvcore's analysis, which also remembers for each counted node the layer it belongs to."""

    def __init__(self, wrapper: nn.Module, image: torch.Tensor) -> None:
        super().__init__(wrapper, (image,))
        self._counted: list[tuple[str, int]] = []
        self.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        self.set_op_handle(
            **{name: self._remembering(handle) for name, handle in self._op_handles.items()}
        )

    def by_layer(self, keys: Mapping[str, None]) -> dict[str, int]:
        counts = Counter(dict.fromkeys(keys, 0))
        for scope, count in self._counted:
            counts[_layer_key(scope)] += count
        return dict(counts)

    def _remembering(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        def counted(inputs: list[Any], outputs: list[Any]) -> Any:
            result = handle(inputs, outputs)
            count = sum(result.values()) if isinstance(result, Counter) else result
            self._counted.append((outputs[0].node().scopeName(), int(count)))
            return result

        return counted

    def _get_all_ancestors(self, module_name: str) -> set[str]:
        # fvcore asks for the modules above a node's innermost scope; a layer's scope is no module.
        if module_name.startswith(_MARK):
            return {""}
        return super()._get_all_ancestors(module_name)


def _layer_key(scope: str) -> str:
    """The innermost layer in a scope name; where there is none, the innermost module's path."""
    names = scope.split("/")
    layers = [name.removeprefix(_MARK) for name in names if name.startswith(_MARK)]
    return layers[-1] if layers else names[-1].removeprefix("network.")
