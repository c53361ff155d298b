"""Sums, means, extremes and norms over dimensions."""

from collections.abc import Callable
from math import prod

from layerscope.operations.family import Family, Number, elementwise_flops, on_input


def two_per_input_flops(**shape: Number) -> Number:
    """Return 2 FLOPs per element: a square, exponential or product, and an addition."""
    return 2 * prod(shape.values())


def variance_flops(**shape: Number) -> Number:
    """Return 4 FLOPs per element: 1 for the mean; a difference, a square and an addition."""
    return 4 * prod(shape.values())


def _family(
    name: str,
    *operations: str,
    functions: tuple[str, ...] = (),
    flops: Callable[..., Number] = elementwise_flops,
    has_gradient: bool = True,
) -> Family:
    return Family(
        name=name,
        functions=functions,
        operations=operations,
        parameters=("input", "dim", "keepdim"),
        forward=on_input(flops),
        input_gradient=on_input(elementwise_flops) if has_gradient else None,
    )


FAMILIES = (
    _family("mean", "aten::mean", functions=("mean",)),
    _family("trace", "aten::trace", has_gradient=False),
    # A sum's gradient is an expanded view of the output's.
    _family("sum", "aten::sum", "aten::nansum", functions=("sum",), has_gradient=False),
    *(
        _family(name, f"aten::{name}")
        for name in (
            *("max", "min", "amax", "amin", "prod", "cumsum", "cumprod", "cummax", "cummin"),
            *("logcumsumexp", "aminmax", "median", "nanmedian", "mode"),
        )
    ),
    _family("max_or_min", "aten::_cummax_helper", "aten::_cummin_helper"),
    *(
        _family(name, f"aten::{name}", has_gradient=False)
        for name in ("argmax", "argmin", "any", "all", "count_nonzero", "histc", "bincount")
    ),
    _family(
        "norm",
        *("aten::norm", "aten::linalg_vector_norm", "aten::logsumexp", "aten::dist"),
        flops=two_per_input_flops,
    ),
    _family(
        "variance",
        *("aten::var", "aten::std", "aten::var_mean", "aten::std_mean"),
        flops=variance_flops,
    ),
)
