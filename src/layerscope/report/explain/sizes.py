"""Where a layer's output size comes from, and how many numbers and bytes that is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from layerscope.dry_run import Shape
from layerscope.networks.layer_calls import DescribedCall
from layerscope.operations.family import Formula, Number
from layerscope.operations.shapes import (
    conv_output_size,
    conv_transpose_output_size,
    overhanging_windows,
)

AXES = ("D", "H", "W")
SizeFunction = Callable[..., Number]
_POOLS = ("max_pool", "avg_pool")


@dataclass(frozen=True)
class SizeRule:
    """How the output's size along some dimensions is found.

    Args:
        formulas: one per dimension; `quantity` is the symbol of the size.
        note: what the formulas do not say.
    """

    formulas: tuple[Formula, ...]
    note: str = ""


def size_rule(spec: DescribedCall) -> SizeRule | None:
    """Of a convolution or pooling; None where the size is not worked out so."""
    if "kernel_size" not in spec.geometry:
        return None
    if spec.kind.startswith("conv_transpose"):
        return SizeRule(_formulas(spec, int(spec.kind[-2]), conv_transpose_output_size))
    if spec.kind in ("conv1d", "conv2d", "conv3d"):
        named_same = spec.geometry["padding"] == "same"
        return (
            None if named_same else SizeRule(_formulas(spec, int(spec.kind[-2]), conv_output_size))
        )
    if spec.kind in _POOLS:
        return _pooling(spec)
    return None


def elements_formula(shape: Shape, suffix: str, channels: str) -> Formula:
    """How many numbers a tensor has."""
    return Formula("elements", _product, size_names(shape, suffix, channels))


def _product(**sizes: Number) -> Number:
    return prod(sizes.values())


def size_names(shape: Shape, suffix: str, channels: str) -> dict[str, int]:
    """Each dimension under its symbol.

    Args:
        suffix: `in` or `out`, of the spatial ones.
        channels: the symbol of the second dimension.
    """
    if not 2 <= len(shape) <= 5:
        return {f"n_{number}": size for number, size in enumerate(shape, 1)}
    spatial = [f"{axis}_{suffix}" for axis in AXES[5 - len(shape) :]]
    return dict(zip(("N", channels, *spatial), shape, strict=True))


def as_tuple(setting: Any, dims: int) -> tuple[int, ...]:
    """`2` as (2, 2)."""
    if isinstance(setting, int):
        return (setting,) * dims
    return tuple(setting) * (dims if len(setting) == 1 else 1)


def padding_sentence(spec: DescribedCall) -> str:
    """What a convolution's padding does to the size; empty for another layer."""
    if spec.kind not in ("conv1d", "conv2d", "conv3d") or "padding" not in spec.geometry:
        return ""
    geometry, dims = spec.geometry, int(spec.kind[-2])
    padding = geometry["padding"]
    if padding == "same":
        return (
            "Same padding, by name: as many zeros are added as keep the size, $d(k-1)$ in each "
            "dimension. It needs stride 1."
        )
    kernel, stride = as_tuple(geometry["kernel_size"], dims), as_tuple(geometry["stride"], dims)
    dilation = as_tuple(geometry["dilation"], dims)
    padded = (0,) * dims if padding == "valid" else as_tuple(padding, dims)
    if not any(padded):
        return "Valid padding, $p = 0$: the kernel stays inside of the input."
    halves = tuple((k - 1) // 2 for k in kernel)
    if padded != halves or set(dilation) != {1}:
        return ""
    if spec.input_shape[-dims:] == spec.output_shape[-dims:]:
        return (
            "Same padding, $p = \\left\\lfloor (k-1)/2 \\right\\rfloor$: with an odd $k$ and "
            "stride 1 the size stays as it is."
        )
    if set(stride) != {1}:
        return (
            "$p = \\left\\lfloor (k-1)/2 \\right\\rfloor$, but the stride is not 1: the size "
            "does not stay."
        )
    return (
        "$p = \\left\\lfloor (k-1)/2 \\right\\rfloor$, but an even $k$ has no middle: the size "
        "shrinks by 1."
    )


def _pooling(spec: DescribedCall) -> SizeRule:
    dims = len(spec.output_shape) - 2
    if not isinstance(spec.geometry["kernel_size"], int):
        dims = len(spec.geometry["kernel_size"])
    if not spec.geometry.get("ceil_mode"):
        return SizeRule(_formulas(spec, dims, conv_output_size))
    formulas = _formulas(spec, dims, overhanging_windows)
    note = "With `ceil_mode` the division is rounded up: a last window may hang over the end."
    for formula, size in zip(formulas, spec.output_shape[-dims:], strict=True):
        if formula.value != size:
            note += (
                f" The last of the {formula.value} windows of ${formula.quantity[0]}$ would begin "
                f"in the padding behind the input, and is left out: {formula.value} - 1 = {size}."
            )
    return SizeRule(formulas, note)


def _formulas(spec: DescribedCall, dims: int, function: SizeFunction) -> tuple[Formula, ...]:
    return tuple(
        Formula(f"{axis}_out", _renamed(function, axis), _settings(spec, dims, number, axis))
        for number, axis in enumerate(AXES[-dims:])
    )


def _settings(spec: DescribedCall, dims: int, number: int, axis: str) -> dict[str, int]:
    """A setting that changes nothing (p = 0, d = 1) is left out."""
    geometry = spec.geometry
    kernel = as_tuple(geometry["kernel_size"], dims)
    padding = geometry.get("padding", 0)
    named = {
        f"{axis}_in": spec.input_shape[-dims:][number],
        "p": 0 if padding == "valid" else as_tuple(padding, dims)[number],
        f"k_{axis.lower()}": kernel[number],
        "s": as_tuple(geometry.get("stride") or kernel, dims)[number],
        "d": as_tuple(geometry.get("dilation", 1), dims)[number],
        "p_out": as_tuple(geometry.get("output_padding", 0), dims)[number],
    }
    return {name: value for name, value in named.items() if _NEUTRAL.get(name) != value}


@lru_cache(maxsize=64)
def _renamed(function: SizeFunction, axis: str) -> SizeFunction:
    """A size function that takes its settings as H_in, k_h, s, p, d and p_out."""

    def renamed(**n: Number) -> Number:
        further = {"output_padding": n["p_out"]} if "p_out" in n else {}
        return function(
            n[f"{axis}_in"],
            n[f"k_{axis.lower()}"],
            n["s"],
            n.get("p", 0),
            dilation=n.get("d", 1),
            **further,
        )

    return renamed


_NEUTRAL = {"p": 0, "d": 1, "p_out": 0}
