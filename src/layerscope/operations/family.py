"""The description of a family of operations: its functions and their costs.

FLOPs count a multiplication and an addition as one each; one MAC is both. The conventions are the
textbook's, as docs/accounting.md lists them. Formulas are plain functions of geometry: integers
give the count, sympy symbols the formula.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any, Protocol

# An int, or a sympy expression.
Number = Any
Shape = tuple[int, ...]
SizesByName = Mapping[str, int]


class TensorLike(Protocol):
    """The attributes of a tensor that a family needs."""

    @property
    def shape(self) -> Shape:
        """Sizes of its dimensions."""
        ...

    @property
    def requires_grad(self) -> bool:
        """True if autograd tracks it."""
        ...


@dataclass(frozen=True)
class Invocation:
    """One call of a function or an operation.

    Args:
        name: name of the function (`conv2d`) or of the operation (`aten::convolution`).
        arguments: arguments by the names in torch's documentation.
        inputs: all tensors among the arguments, in order.
        outputs: the tensors that it returned.
        needs_gradient: autograd records it.
    """

    name: str
    arguments: Mapping[str, Any]
    inputs: Sequence[TensorLike]
    outputs: Sequence[TensorLike]
    needs_gradient: bool = False

    @property
    def output_shape(self) -> Shape:
        """Shape of the first output."""
        return self.outputs[0].shape

    @property
    def input_shape(self) -> Shape:
        """Shape of the first input; of the output if the call has no input."""
        return self.inputs[0].shape if self.inputs else self.output_shape

    @cached_property
    def output_elements(self) -> int:
        """Number of elements in all outputs."""
        return sum(prod(tensor.shape) for tensor in self.outputs)


@dataclass(frozen=True, slots=True)
class CostFormula:
    """One quantity of one call: a function and this call's arguments for it.

    Args:
        quantity: `macs`, `forward_flops`, `input_gradient_flops`, `weight_gradient_flops`,
            `bias_gradient_flops`.
        arguments: numbers by the names of the parameters: N, C_in, H_out, k_h, ...
    """

    quantity: str
    function: Callable[..., Number]
    arguments: SizesByName

    @property
    def value(self) -> int:
        """The value of the function for these arguments."""
        return self.function(**self.arguments)


QUANTITIES = (
    "macs",
    "forward_flops",
    "input_gradient_flops",
    "weight_gradient_flops",
    "bias_gradient_flops",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """A formula, and the function that reads its arguments from a call."""

    function: Callable[..., Number]
    sizes: Callable[[Invocation], SizesByName]


CountRule = Callable[[Invocation], int]
# None if the instrument has no formula for this call.
MaybeCountRule = Callable[[Invocation], int | None]


@dataclass(frozen=True)
class Family:
    """Functions and operations that compute the same thing.

    Args:
        name: its usual name.
        functions: names of the functions of torch in this family. Each owns the cost of the
            operations inside it.
        operations: names of ATen operations, for calls outside of such a function.
        parameters: names of the positional arguments of the functions.
        macs, forward, input_gradient, weight_gradient, bias_gradient: the costs; None if there is
            nothing to compute.
        is_view: it returns a view of its input, so that the textbook stores no output.
        has_bias: tells whether a call has a bias.
        matrices: names of the factors of a product; each needs a product for its gradient.
        fvcore: returns fvcore's count of a call; None if fvcore has no formula.
        fvcore_beyond: returns fvcore's count minus the MACs, or minus the forward FLOPs of a family
            without MACs. It follows from the geometry, not from the formulas above.
        profiler: returns torch.profiler's count of the function itself, without the operations
            inside.
        profiler_backward: torch.profiler counts a product for each factor's gradient.
        has_backends: torch chooses one of several kernels, which save and count differently.
        by_cudnn: cuDNN computes it on a GPU, with its own switch for the precision of float32.
        drops_results: compiled code frees the results that it does not return, so that Python
            never sees them: max-pool's indices.
        settings: attributes of a module that say how it computes this.
        defaults: what a function does where it is called without these arguments.
        weight_settings: returns the settings that a weight's shape tells, given the groups.
        convolved_dims: number of dimensions of a convolution, whose settings may be one number for
            all of them; 0 for other families.
        is_elementwise: each output depends on one input, at the same place, and on its channel.
    """

    name: str
    functions: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ("input",)
    macs: Cost | None = None
    forward: Cost | None = None
    input_gradient: Cost | None = None
    weight_gradient: Cost | None = None
    bias_gradient: Cost | None = None
    is_view: bool = False
    has_bias: Callable[[Invocation], bool] = lambda call: call.arguments.get("bias") is not None
    matrices: tuple[str, ...] = ()
    fvcore: MaybeCountRule | None = None
    fvcore_beyond: CountRule = lambda call: 0
    profiler: MaybeCountRule | None = None
    profiler_backward: bool = False
    has_backends: bool = False
    by_cudnn: bool = False
    drops_results: bool = False
    settings: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    weight_settings: Callable[[Shape, int], Mapping[str, Any]] | None = None
    convolved_dims: int = 0
    is_elementwise: bool = False

    def formulas(self, call: Invocation) -> tuple[CostFormula, ...]:
        """Return a formula for each quantity with something to compute."""
        bias = self.bias_gradient
        costs = {
            "macs": self.macs,
            "forward_flops": self.forward,
            "input_gradient_flops": self.input_gradient,
            "weight_gradient_flops": self.weight_gradient,
            "bias_gradient_flops": bias if bias is not None and self.has_bias(call) else None,
        }
        return tuple(
            CostFormula(quantity, cost.function, cost.sizes(call))
            for quantity, cost in costs.items()
            if cost is not None
        )


_DIMENSIONS: dict[int, tuple[str, ...]] = {
    1: ("C",),
    2: ("N", "C"),
    3: ("N", "C", "L"),
    4: ("N", "C", "H", "W"),
    5: ("N", "C", "D", "H", "W"),
}
SPATIAL = ("D", "H", "W")


def dimensions(shape: Shape, suffix: str = "") -> SizesByName:
    """Return a shape's sizes by their usual names, the spatial ones with a suffix."""
    names = _DIMENSIONS.get(len(shape))
    if names is None:
        return {"elements": prod(shape)}
    return {
        name + suffix if name in (*SPATIAL, "L") else name: size
        for name, size in zip(names, shape, strict=True)
    }


def on_output(function: Callable[..., Number]) -> Cost:
    """Return a cost per output element."""
    return Cost(function, lambda call: dimensions(call.output_shape, "_out"))


def on_input(function: Callable[..., Number]) -> Cost:
    """Return a cost per element of the first input."""
    return Cost(function, lambda call: dimensions(call.input_shape, "_in"))


def spatial_sizes(sizes: Shape, kernel_size: int | Sequence[int], suffix: str) -> SizesByName:
    """Return sizes and kernel sizes by name: H_out, k_h, W_out, k_w, ..."""
    kernel = per_dimension(kernel_size, len(sizes))
    named: dict[str, int] = {}
    for name, size, k in zip(SPATIAL[-len(sizes) :], sizes, kernel, strict=True):
        named |= {f"{name}_{suffix}": size, f"k_{name.lower()}": k}
    return named


def per_dimension(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """Return one number per dimension, from one number for all or one for each."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * dims if len(numbers) == 1 else numbers


def batch_size(shape: Shape, dims: int) -> int:
    """Return N; 1 for a single image, which convolutions and pools also take."""
    return shape[0] if len(shape) == dims + 2 else 1


def elementwise_flops(**shape: Number) -> Number:
    """Return the FLOPs at one per element."""
    return prod(shape.values())


def two_per_element_flops(**shape: Number) -> Number:
    """Return the FLOPs at two per element, as for a product's gradients of both factors."""
    return 2 * prod(shape.values())


NOTHING: Mapping[str, int] = MappingProxyType({})
