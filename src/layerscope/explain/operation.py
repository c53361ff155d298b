"""What is explained: one call of a function of torch, and the numbers that it read and made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import torch

from layerscope.dry_run import FunctionRecord, Shape, TensorRecord
from layerscope.explain.values import Floats, Position
from layerscope.networks.layer_calls import DescribedCall
from layerscope.operations import bound_arguments

MASK = "mask"  # of attention: may hold minus infinity
# The letters of what a function reads, by the names of its arguments; others have their own name.
_SYMBOLS = {
    "input": "x",
    "weight": "w",
    "bias": "b",
    **dict.fromkeys(("other", "mat2", "vec", "tensor"), "z"),
    "query": "q",
    "key": "k",
    "value": "v",
    "attn_mask": MASK,
}
IDENTITY = "identity"  # the name of what a layer does that returns what it read


@dataclass(frozen=True)
class Operation:
    """One call of a function of torch.

    Args:
        key: of the layer whose output it makes.
        name: torch's, `conv2d`; `identity` where the layer returns what it read.
        arguments: by name; a TensorRecord in place of each tensor.
        shapes: of each tensor that it read, by symbol: `x`, `w`, `b`; `x_1`, `x_2` of a list.
        has_twins: two of these are the same memory.
        padding: the arguments of the function that padded `x` right before.
        sources: which of the functions that ran in the layer it is, from 0, and which padded; empty
            for the identity.
    """

    key: str
    name: str
    arguments: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    output_shape: Shape
    has_twins: bool = False
    padding: Mapping[str, Any] | None = None
    sources: tuple[int, ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument; the default where the function was called without."""
        return self.arguments.get(name, default)


@dataclass(frozen=True, eq=False)
class Captured:
    """One call in one training step. Arrays hold the network's own numbers exactly.

    Args:
        dtype: of the output: in which it was computed.
        operands: what it read, by symbol; taken before an in-place function ran.
        output: what it returned (the first tensor).
        output_gradient: dL/d(output), of everything that uses it; None where L does not depend on
            it.
        gradients: the part of dL/d(operand) that goes through this call, as autograd gives it;
            missing where there is none.
        statistics: what the framework computes on the way, by the names of the values in norms:
            batch norm's `mean` and `inverse_std` of a batch.
    """

    operation: Operation
    dtype: torch.dtype
    operands: Mapping[str, Floats]
    output: Floats
    output_gradient: Floats | None
    gradients: Mapping[str, Floats]
    statistics: Mapping[str, Floats]

    @property
    def dl_dy(self) -> Floats:
        """dL/dy, where L depends on y."""
        assert self.output_gradient is not None
        return self.output_gradient

    def gradient_at(self, symbol: str, position: Position) -> float | None:
        """Return autograd's gradient of an operand's element; None where it gives none."""
        gradient = self.gradients.get(symbol)
        return None if gradient is None else float(gradient[position])


T = TypeVar("T")


def operands(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: type[T]
) -> dict[str, T]:
    """Return the tensors that a function is called with, by symbol.

    Args:
        kind: the type that stands for a tensor: Tensor, or TensorRecord.
    """
    return dict(_operands(bound_arguments(name, args, kwargs), kind))


def _operands(bound: Mapping[str, Any], kind: type[T]) -> Iterator[tuple[str, T]]:
    for argument, value in bound.items():
        if type(value) in (tuple, list):
            tensors = (item for item in value if isinstance(item, kind))
            yield from ((f"x_{number}", tensor) for number, tensor in enumerate(tensors, 1))
        elif isinstance(value, kind):
            yield _SYMBOLS.get(argument, argument), value


def operation_of(
    spec: DescribedCall,
    numbered: tuple[int, FunctionRecord],
    padding: tuple[int, FunctionRecord] | None = None,
) -> Operation:
    """Return a function's call that makes a layer's output.

    Args:
        numbered: the function, and which of those in the layer it is.
        padding: likewise the function that padded what it reads.
    """
    number, function = numbered
    read = operands(function.name, function.args, function.kwargs, TensorRecord)
    padded, sources = None, (number,)
    if padding is not None:
        padded = bound_arguments(padding[1].name, padding[1].args, padding[1].kwargs)
        read["x"] = padded["input"]
        sources = (number, padding[0])
    return Operation(
        key=spec.key,
        name=function.name,
        arguments=bound_arguments(function.name, function.args, function.kwargs),
        shapes={symbol: tensor.shape for symbol, tensor in read.items()},
        output_shape=spec.output_shape,
        has_twins=any(a.is_same_memory(b) for a, b in combinations(read.values(), 2)),
        padding=padded,
        sources=sources,
    )


def identity_of(spec: DescribedCall) -> Operation:
    """Return what a layer does that returns what it read."""
    return Operation(spec.key, IDENTITY, {}, {"x": spec.input_shape}, spec.output_shape)
