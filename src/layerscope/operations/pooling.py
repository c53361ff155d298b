"""Max, average, adaptive and power pooling."""

from layerscope.operations.family import (
    Cost,
    Family,
    Invocation,
    Number,
    SizesByName,
    batch_size,
    elementwise_flops,
    on_input,
    spatial_sizes,
)


def max_pool_flops(
    N: Number,
    C: Number,
    W_out: Number,
    k_w: Number,
    H_out: Number = 1,
    k_h: Number = 1,
    D_out: Number = 1,
    k_d: Number = 1,
) -> Number:
    """Return the FLOPs of max-pool: one per position of each output's window."""
    return N * C * D_out * H_out * W_out * k_d * k_h * k_w


def lp_pool_flops(**geometry: Number) -> Number:
    """Return the FLOPs of power pooling: a power and an addition per position of each window."""
    return 2 * max_pool_flops(**geometry)


def _window_sizes(dims: int):
    def sizes(call: Invocation) -> SizesByName:
        shape = call.output_shape
        return {
            "N": batch_size(shape, dims),
            "C": shape[-dims - 1],
            **spatial_sizes(shape[-dims:], call.arguments["kernel_size"], "out"),
        }

    return sizes


_POOL = ("input", "kernel_size", "stride", "padding")
_SETTINGS = ("kernel_size", "stride", "padding", "ceil_mode")


def _fvcore_adaptive(call: Invocation) -> int:
    """Return 1 per input element in two dimensions; else None."""
    elements = 1
    for size in call.input_shape:
        elements *= size
    return elements


def _max_pool(dims: int) -> Family:
    return Family(
        name="max_pool",
        functions=(f"max_pool{dims}d", f"max_pool{dims}d_with_indices"),
        drops_results=True,
        operations=(f"aten::max_pool{dims}d_with_indices",),
        parameters=(*_POOL, "dilation", "ceil_mode"),
        forward=Cost(max_pool_flops, _window_sizes(dims)),
        input_gradient=on_input(elementwise_flops),
        settings=(*_SETTINGS, "dilation", "return_indices"),
    )


def _fractional(dims: int) -> Family:
    return Family(
        name="max_pool",
        functions=(f"fractional_max_pool{dims}d", f"fractional_max_pool{dims}d_with_indices"),
        operations=(f"aten::fractional_max_pool{dims}d",),
        forward=Cost(max_pool_flops, _window_sizes(dims)),
        input_gradient=on_input(elementwise_flops),
        parameters=("input", "kernel_size", "output_size"),
        settings=("kernel_size", "return_indices"),
    )


def _lp_pool(dims: int) -> Family:
    return Family(
        name="lp_pool",
        functions=(f"lp_pool{dims}d",),
        parameters=("input", "norm_type", "kernel_size", "stride", "ceil_mode"),
        forward=Cost(lp_pool_flops, _window_sizes(dims)),
        input_gradient=Cost(lp_pool_flops, _window_sizes(dims)),
    )


def _averages(
    name: str,
    functions: tuple[str, ...],
    parameters: tuple[str, ...],
    settings: tuple[str, ...] = ("output_size",),
    *,
    fvcore: bool = False,
    operations: tuple[str, ...] = (),
) -> Family:
    return Family(
        name=name,
        functions=functions,
        operations=operations,
        parameters=parameters,
        forward=on_input(elementwise_flops),
        input_gradient=on_input(elementwise_flops),
        fvcore=_fvcore_adaptive if fvcore else None,
        settings=settings,
    )


FAMILIES = (
    *(_max_pool(dims) for dims in (1, 2, 3)),
    *(_lp_pool(dims) for dims in (1, 2, 3)),
    *(_fractional(dims) for dims in (2, 3)),
    _averages(
        "avg_pool",
        ("avg_pool1d", "avg_pool2d", "avg_pool3d"),
        (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
        (*_SETTINGS, "count_include_pad", "divisor_override"),
        operations=("aten::avg_pool2d", "aten::avg_pool3d"),
    ),
    _averages("adaptive_avg_pool", ("adaptive_avg_pool2d",), ("input", "output_size"), fvcore=True),
    _averages(
        "adaptive_avg_pool",
        ("adaptive_avg_pool1d", "adaptive_avg_pool3d"),
        ("input", "output_size"),
        operations=("aten::_adaptive_avg_pool2d", "aten::_adaptive_avg_pool3d"),
    ),
    _averages(
        "adaptive_max_pool",
        tuple(
            f"adaptive_max_pool{n}d{suffix}" for n in (1, 2, 3) for suffix in ("", "_with_indices")
        ),
        ("input", "output_size"),
        ("output_size", "return_indices"),
        operations=("aten::adaptive_max_pool2d", "aten::adaptive_max_pool3d"),
    ),
)
