"""The number of features that reach the first fully connected layer, layer by layer."""

from dataclasses import dataclass
from math import prod
from typing import Any

from layerscope.dry_run import Shape
from layerscope.networks.layer_calls import DescribedCall, NetworkCalls
from layerscope.operations.shapes import conv_output_size, overhanging_windows
from layerscope.operations.words import pooled_value


@dataclass(frozen=True)
class DerivationStep:
    """The change of shape in one layer.

    Args:
        formula: the size formula with this layer's numbers; `same size` if no size changes.
        shape: shape of the layer's output, with the batch.
    """

    layer: str
    formula: str
    shape: Shape


def derivation(network: NetworkCalls) -> tuple[DerivationStep, ...]:
    """Return the steps from the image to the first linear layer, which is the last of them.

    A network without a linear layer gives all its layers. Any network works whose layers are in a
    row.
    """
    steps: list[DerivationStep] = []
    for spec in network.layers:
        steps.append(DerivationStep(spec.key, _formula(spec), spec.output_shape))
        if is_linear(spec):
            break
    return tuple(steps)


def is_linear(spec: DescribedCall) -> bool:
    """Tell whether a call is that of a fully connected layer."""
    return "in_features" in spec.geometry


def _formula(spec: DescribedCall) -> str:
    before, after = spec.input_shape, spec.output_shape
    if is_linear(spec):
        return f"in_features = {before[-1]:,}, out_features = {after[-1]:,}"
    word = pooled_value(spec.kind)
    if "output_size" in spec.geometry and word is not None:
        return f"{word} of {_times(before[2:])} → {_times(after[2:])}"
    # A transposed convolution has another size formula.
    if {"kernel_size", "output_padding"} & spec.geometry.keys() == {"kernel_size"}:
        return _window_formula(spec)
    if len(after) == 2 and len(before) > 2 and prod(before[1:]) == after[1]:
        return f"C·H·W = {'·'.join(map(str, before[1:]))} = {after[1]:,}"
    return "same size" if before == after else f"{_times(before[1:])} → {_times(after[1:])}"


def _times(sizes: Shape) -> str:
    return "×".join(map(str, sizes))


def _window_formula(spec: DescribedCall) -> str:
    """Write the formulas of height and width, as one if both are computed alike."""
    texts: list[str] = []
    for axis, dimension in (("H", -2), ("W", -1)):
        written = _window_count(spec, dimension)
        if written is None or written.value != spec.output_shape[dimension]:
            return f"{_times(spec.input_shape[2:])} → {_times(spec.output_shape[2:])}"
        texts.append(f"{axis}_out = {written.text} = {written.value}")
    height, width = (text.partition(" = ")[2] for text in texts)
    if height == width:
        return f"H_out = W_out = {height}"
    return ", ".join(texts)


def _window_count(spec: DescribedCall, dimension: int) -> "_Written | None":
    """Call the size formula with numbers that record their arithmetic."""
    geometry = spec.geometry
    kernel, padding = geometry["kernel_size"], geometry.get("padding", 0)
    stride = geometry.get("stride") or kernel
    if isinstance(padding, str):
        return None
    k, s, p, d = (
        _of_dimension(setting, dimension)
        for setting in (kernel, stride, padding, geometry.get("dilation", 1))
    )
    function = overhanging_windows if geometry.get("ceil_mode") else conv_output_size
    size = _Written.number(spec.input_shape[dimension])
    dilation = 1 if d == 1 else _Written.number(d)
    return function(
        size, _Written.number(k), _Written.number(s), _Written.number(p), dilation=dilation
    )


def _of_dimension(setting: int | tuple[int, ...], dimension: int) -> int:
    return setting if isinstance(setting, int) else setting[dimension if len(setting) > 1 else 0]


@dataclass(frozen=True)
class _Written:
    """A whole number, and the arithmetic that gave it.

    Args:
        binding: precedence of the text: 0 for a sum, 1 for a product, 2 for a number or brackets.
    """

    value: int
    text: str
    binding: int

    @classmethod
    def number(cls, value: int) -> "_Written":
        return cls(value, str(value), 2)

    @classmethod
    def of(cls, other: Any) -> "_Written":
        return other if isinstance(other, _Written) else cls.number(other)

    def within(self, binding: int) -> str:
        """Return the text, in brackets if the operation around it binds tighter."""
        return self.text if self.binding >= binding else f"({self.text})"

    def __add__(self, other: Any) -> "_Written":
        other = _Written.of(other)
        return _Written(self.value + other.value, f"{self.text} + {other.within(0)}", 0)

    def __sub__(self, other: Any) -> "_Written":
        other = _Written.of(other)
        return _Written(self.value - other.value, f"{self.text} − {other.within(1)}", 0)

    def __mul__(self, other: Any) -> "_Written":
        other = _Written.of(other)
        return _Written(self.value * other.value, f"{self.within(1)}·{other.within(1)}", 1)

    def __rmul__(self, other: int) -> "_Written":
        return self if other == 1 else _Written.number(other) * self

    def __floordiv__(self, other: Any) -> "_Written":
        other = _Written.of(other)
        text = f"⌊{self.within(1)} / {other.within(2)}⌋"
        return _Written(self.value // other.value, text, 2)
