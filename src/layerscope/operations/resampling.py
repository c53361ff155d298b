"""Interpolation and sampling: a weighted sum of neighbours for each output."""

from collections.abc import Callable
from math import prod

from layerscope.operations.family import Cost, Family, Invocation, Number, SizesByName


def resampling_flops(outputs: Number, taps: Number) -> Number:
    """Return the FLOPs: a product and an addition for each neighbour of each output."""
    return 2 * outputs * taps


# Neighbours of an output: two per dimension for linear interpolation, four for cubic.
_TAPS = {
    "upsample_linear1d": 2,
    "upsample_bilinear2d": 4,
    "_upsample_bilinear2d_aa": 4,
    "upsample_trilinear3d": 8,
    "upsample_bicubic2d": 16,
    "_upsample_bicubic2d_aa": 16,
}
_NEAREST = tuple(
    f"{name}{dims}d"
    for name in ("upsample_nearest", "_upsample_nearest_exact")
    for dims in (1, 2, 3)
)
_BY_MODE = {"grid_sampler_2d": (4, 1, 16), "grid_sampler_3d": (8, 1, 64)}


def _per_output(count: int) -> Callable[[Invocation], int]:
    def fvcore(call: Invocation) -> int:
        return count * prod(call.output_shape)

    return fvcore


def _resampling(name: str, taps: int) -> Family:
    def sizes(call: Invocation) -> SizesByName:
        return {"outputs": prod(call.output_shape), "taps": taps}

    return Family(
        name="interpolate",
        functions=(name.strip("_"),),
        operations=(f"aten::{name}",),
        parameters=("input", "output_size", "align_corners", "scale_factors"),
        forward=Cost(resampling_flops, sizes),
        input_gradient=Cost(resampling_flops, sizes),
        fvcore=_per_output(4) if name == "upsample_bilinear2d" else None,
        fvcore_beyond=_per_output(4 - 2 * taps),
    )


def _sampler_sizes(call: Invocation) -> SizesByName:
    dims = len(call.output_shape) - 2
    mode = call.arguments.get("interpolation_mode") or 0
    return {"outputs": prod(call.output_shape), "taps": _BY_MODE[f"grid_sampler_{dims}d"][mode]}


FAMILIES = (
    *(_resampling(name, taps) for name, taps in _TAPS.items()),
    *(
        # For the textbook it moves data; fvcore counts one per output.
        Family(
            name="interpolate",
            functions=(name.strip("_"),),
            operations=(f"aten::{name}",),
            parameters=("input", "output_size", "scale_factors"),
            fvcore=_per_output(1) if name == "upsample_nearest2d" else None,
            fvcore_beyond=_per_output(1),
        )
        for name in _NEAREST
    ),
    Family(
        name="grid_sample",
        functions=("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
        operations=("aten::grid_sampler_2d", "aten::grid_sampler_3d"),
        parameters=("input", "grid", "interpolation_mode", "padding_mode", "align_corners"),
        forward=Cost(resampling_flops, _sampler_sizes),
        input_gradient=Cost(resampling_flops, _sampler_sizes),
        fvcore=_per_output(4),
        fvcore_beyond=lambda call: prod(call.output_shape) * (4 - 2 * _sampler_sizes(call)["taps"]),
    ),
)
