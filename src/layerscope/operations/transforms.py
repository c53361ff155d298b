"""Fourier transforms, distances, folding and other sums over pairs or neighbours."""

from math import ceil, log2, prod

from layerscope.operations.family import (
    Cost,
    Family,
    Invocation,
    Number,
    SizesByName,
    elementwise_flops,
    on_input,
)


def fft_flops(transforms: Number, points: Number, stages: Number) -> Number:
    """Return the usual count of a Fourier transform: 5 N log2 N for N complex points.

    Args:
        stages: log2 of the points, rounded up.
    """
    return 5 * transforms * points * stages


def real_fft_flops(transforms: Number, points: Number, stages: Number) -> Number:
    """Return half the count of a complex transform: 5/2 N log2 N."""
    return (fft_flops(transforms, points, stages) + 1) // 2


def _fft_sizes(call: Invocation) -> SizesByName:
    shape = max((call.input_shape, call.output_shape), key=prod)
    dims = call.arguments["dim"]
    points = prod(shape[dim] for dim in dims)
    stages = ceil(log2(points)) if points > 1 else 0
    return {"transforms": prod(shape) // max(points, 1), "points": points, "stages": stages}


def bilinear_macs(N: Number, in1: Number, in2: Number, out: Number) -> Number:
    """Return the MACs of x1 A x2 per output: a product with the matrix, then with x2."""
    return N * out * in2 * (in1 + 1)


def bilinear_flops(N: Number, in1: Number, in2: Number, out: Number) -> Number:
    """Return the FLOPs of forward or of the weight's gradient: 2 per MAC."""
    return 2 * bilinear_macs(N, in1, in2, out)


def bilinear_gradient_flops(N: Number, in1: Number, in2: Number, out: Number) -> Number:
    """Return the FLOPs of both inputs' gradients: 2 per MAC each."""
    return 4 * bilinear_macs(N, in1, in2, out)


def _bilinear_sizes(call: Invocation) -> SizesByName:
    first, weight = call.inputs[0].shape, call.inputs[1].shape
    return {
        "N": prod(first[:-1]),
        "in1": weight[1],
        "in2": weight[2],
        "out": weight[0],
    }


def distance_flops(batch: Number, first: Number, second: Number, features: Number) -> Number:
    """Return 3 FLOPs per pair and feature: a difference, a power and an addition."""
    return 3 * batch * first * second * features


def _distance_sizes(call: Invocation) -> SizesByName:
    first, second = call.inputs[0].shape, call.inputs[1].shape
    return {
        "batch": prod(first[:-2]),
        "first": first[-2],
        "second": second[-2],
        "features": first[-1],
    }


def grid_flops(points: Number, dims: Number) -> Number:
    """Return 2 FLOPs per MAC of each point's product with a matrix of dims x (dims + 1)."""
    return 2 * points * dims * (dims + 1)


def _grid_sizes(call: Invocation) -> SizesByName:
    size = call.arguments["size"]
    return {"points": size[0] * prod(size[2:]), "dims": len(size) - 2}


def weight_norm_flops(**shape: Number) -> Number:
    """Return 3 FLOPs per element: a square and an addition for the norm, and the scaling."""
    return 3 * prod(shape.values())


def bag_flops(indices: Number, features: Number) -> Number:
    """Return the FLOPs of adding each embedding to its bag."""
    return indices * features


def _bag_sizes(call: Invocation) -> SizesByName:
    return {
        "indices": prod(call.arguments["indices"].shape),
        "features": call.arguments["weight"].shape[1],
    }


def _added_sizes(call: Invocation) -> SizesByName:
    """Return the sizes of the tensor that is added: the last one among the arguments."""
    return {"elements": prod(call.inputs[-1].shape)}


_FOURIER = (
    ("aten::_fft_c2c", fft_flops),
    ("aten::_fft_r2c", real_fft_flops),
    ("aten::_fft_c2r", real_fft_flops),
)

FAMILIES = (
    *(
        Family(
            name="fft",
            operations=(operation,),
            forward=Cost(flops, _fft_sizes),
            input_gradient=Cost(flops, _fft_sizes),
        )
        for operation, flops in _FOURIER
    ),
    Family(
        name="bilinear",
        operations=("aten::_trilinear",),
        macs=Cost(bilinear_macs, _bilinear_sizes),
        forward=Cost(bilinear_flops, _bilinear_sizes),
        input_gradient=Cost(bilinear_gradient_flops, _bilinear_sizes),
        weight_gradient=Cost(bilinear_flops, _bilinear_sizes),
    ),
    Family(
        name="distance",
        operations=("aten::_cdist_forward", "aten::_euclidean_dist"),
        forward=Cost(distance_flops, _distance_sizes),
        input_gradient=Cost(distance_flops, _distance_sizes),
    ),
    Family(
        name="affine_grid",
        operations=("aten::affine_grid_generator",),
        forward=Cost(grid_flops, _grid_sizes),
        input_gradient=Cost(grid_flops, _grid_sizes),
    ),
    Family(
        name="weight_norm",
        operations=("aten::_weight_norm_interface",),
        forward=on_input(weight_norm_flops),
        input_gradient=on_input(weight_norm_flops),
    ),
    Family(
        name="embedding_bag",
        operations=("aten::_embedding_bag", "aten::_embedding_bag_forward_only"),
        forward=Cost(bag_flops, _bag_sizes),
        input_gradient=Cost(bag_flops, _bag_sizes),
    ),
    # Overlapping blocks are added. The gradient of a sum is passed on without arithmetic.
    Family(name="fold", operations=("aten::col2im",), forward=on_input(elementwise_flops)),
    Family(
        name="index_add",
        operations=tuple(
            f"aten::{name}{suffix}"
            for name in ("index_add", "scatter_add", "index_reduce", "scatter_reduce")
            for suffix in ("", "_")
        ),
        forward=Cost(elementwise_flops, _added_sizes),
    ),
)
