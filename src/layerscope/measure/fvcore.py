"""fvcore's operation counts per layer, in fvcore's own convention.

fvcore counts a multiply-add of a convolution or a linear layer as one; batch norm 5 per element in
training mode, 2 in eval mode; adaptive average pooling 1 per input element. What it has no formula
for (ReLU, max-pool, nn.AvgPool2d, additions, ...) it leaves out: `unsupported_ops` names those that
it does not itself hold to be free.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn
from torch.jit import TracerWarning  # pyright: ignore[reportPrivateImportUsage]

from layerscope.layers.calls import Call, CallObserver, CallTracker, unwrapped
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
        counter = _Counter(network, image, scopes)
        tracker = scopes.tracker = CallTracker(network, scopes)
        try:
            with tracker:
                counter.count(counter.trace())
        except Exception as error:  # whatever the user's forward, the tracer or a formula raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FvcoreFailed(f"fvcore cannot count {type(network).__name__}: {reason}") from error
        mode = "train" if network.training else "eval"
    return FvcoreCounts(
        layers=MappingProxyType(dict(counter.layers)),
        total=counter.layers.total(),
        mode=mode,
        batch_size=input_shape[0],
        unsupported_ops=MappingProxyType(dict(counter.unsupported_ops)),
    )


_MARK = "layer:"  # before a call's number, in the name of a scope


class _LayerScopes(CallObserver):
    """Writes the number of the running layer's call into the names that the tracer gives."""

    tracker: CallTracker

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self.calls: list[str] = []  # the key of every call, by its number
        self.paths_after: list[str | None] = []  # of the module that runs when the call has ended
        self._pushed: list[bool] = []

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = torch._C._get_tracing_state()
        self._pushed.append(state is not None)
        if state is not None:
            state.push_scope(f"{_MARK}{len(self.calls)}")
        self.calls.append(call.key)
        self.paths_after.append(None)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.paths_after[-1] = self.tracker.current_key
        if output is not None:
            self.keys.setdefault(call.key)
        state = torch._C._get_tracing_state()
        if self._pushed.pop() and state is not None:
            state.pop_scope()


class _Counter:
    """Applies fvcore's formulas to the nodes of a trace, as its own analysis does.

    That analysis would add up every module's count, and name every node by hooks on all modules.
    """

    def __init__(self, network: nn.Module, image: torch.Tensor, scopes: _LayerScopes) -> None:
        self.layers: Counter[str] = Counter()
        self.unsupported_ops: Counter[str] = Counter()
        self._scopes = scopes
        self._name = type(network).__name__
        self._network = network
        self._image = image
        self._analysis = FlopCountAnalysis(network, (image,))

    def trace(self) -> torch._C.Graph:
        """One forward.

        The tracer notes the Python stack at every node, and that is most of its time: so it is
        called here directly, not through torch.jit and a module around the network.
        """

        def forward(image: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(tensors_in(self._network(image)))  # all that the tracer takes

        inputs = [self._image, *self._network.parameters(), *self._network.buffers()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TracerWarning)
            graph, _ = torch._C._create_graph_by_tracing(
                forward, inputs, lambda value: "", True, False
            )
        return graph

    def count(self, graph: torch._C.Graph) -> None:
        """Every node for its layer; one outside of any, for the module that ran after the last."""
        self.layers.update(dict.fromkeys(self._scopes.keys, 0))
        between = self._name
        node: Any
        for node in graph.nodes():
            kind = node.kind()
            if kind == "prim::Constant":
                continue  # most are, and each is beside the operation that it is an argument of
            scope = node.scopeName().rpartition("/")[2]
            key = between
            if scope.startswith(_MARK):
                call = int(scope.removeprefix(_MARK))
                key, between = (
                    self._scopes.calls[call],
                    self._scopes.paths_after[call] or self._name,
                )
            if kind == "prim::PythonOp":
                kind += "." + node.pyname()
            formula = self._analysis._op_handles.get(kind)
            if formula is not None:
                result: Any = formula(list(node.inputs()), list(node.outputs()))
                flops = sum(result.values()) if isinstance(result, Counter) else result
                self.layers[key] += int(flops)
            elif not self._analysis._should_ignore_node(node):
                self.unsupported_ops[kind] += 1
