"""Results of fake operations have the strides of real ones, for all strides of the arguments."""

from itertools import permutations, product

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from layerscope.dry_run.fake import ObservedFakeMode

aten = torch.ops.aten
ROWS, IMAGE = (2, 4, 6), (2, 4, 5, 6)


def ones(*shape):
    return torch.ones(shape)


# Each has the shapes of the arguments whose dimensions are permuted, and its other arguments.
OPERATIONS = {
    aten.native_layer_norm.default: ([ROWS], ([6], ones(6), ones(6), 1e-5)),
    aten.native_layer_norm_backward.default: (
        [ROWS, ROWS],
        ([6], ones(2, 4, 1), ones(2, 4, 1), ones(6), ones(6), [True] * 3),
    ),
    aten.native_group_norm.default: ([IMAGE], (ones(4), ones(4), 2, 4, 30, 2, 1e-5)),
    aten.native_group_norm_backward.default: (
        [IMAGE, IMAGE],
        (ones(2, 2), ones(2, 2), ones(4), 2, 4, 30, 2, [True] * 3),
    ),
    aten.native_batch_norm.default: (
        [IMAGE],
        (ones(4), ones(4), ones(4), ones(4), True, 0.1, 1e-5),
    ),
    aten.native_batch_norm_backward.default: (
        [IMAGE, IMAGE],
        (ones(4), ones(4), ones(4), ones(4), ones(4), True, 1e-5, [True] * 3),
    ),
    aten._softmax.default: ([ROWS], (-1, False)),
    aten._softmax_backward_data.default: ([ROWS, ROWS], (-1, torch.float32)),
    aten._log_softmax.default: ([ROWS], (-1, False)),
    aten._log_softmax_backward_data.default: ([ROWS, ROWS], (-1, torch.float32)),
    aten.glu.default: ([IMAGE], (1,)),
    aten.glu_backward.default: ([(2, 2, 5, 6), IMAGE], (1,)),
    aten.log_sigmoid_forward.default: ([IMAGE], ()),
    aten.gelu.default: ([IMAGE], ()),
    aten.gelu_backward.default: ([IMAGE, IMAGE], ()),
    aten.silu_backward.default: ([IMAGE, IMAGE], ()),
    aten.mish_backward.default: ([IMAGE, IMAGE], ()),
    aten.threshold_backward.default: ([IMAGE, IMAGE], (0,)),
    aten.leaky_relu_backward.default: ([IMAGE, IMAGE], (0.1, False)),
    aten.hardswish_backward.default: ([IMAGE, IMAGE], ()),
    aten.hardsigmoid_backward.default: ([IMAGE, IMAGE], ()),
    aten.hardtanh_backward.default: ([IMAGE, IMAGE], (-1, 1)),
    aten.softplus_backward.default: ([IMAGE, IMAGE], (1, 20)),
    aten.roll.default: ([IMAGE], ([1, 1], [1, 2])),
    aten.channel_shuffle.default: ([IMAGE], (2,)),
    aten.pixel_shuffle.default: ([IMAGE], (2,)),
    aten.constant_pad_nd.default: ([IMAGE], ([1, 1, 1, 1],)),
    aten.reflection_pad2d.default: ([IMAGE], ([1, 1, 1, 1],)),
    aten.reflection_pad2d_backward.default: ([(2, 4, 7, 8), IMAGE], ([1, 1, 1, 1],)),
    aten.add.Tensor: ([IMAGE, IMAGE], ()),
    aten.bmm.default: ([(2, 5, 4), ROWS], ()),
    aten.convolution.default: (
        [IMAGE],
        (ones(8, 4, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ),
    aten.convolution_backward.default: (
        [(2, 8, 5, 6), IMAGE],
        (ones(8, 4, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]),
    ),
    aten.max_pool2d_with_indices.default: ([IMAGE], ([2, 2], [1, 1])),
    aten.avg_pool2d.default: ([IMAGE], ([2, 2], [1, 1])),
    aten._adaptive_avg_pool2d.default: ([IMAGE], ([2, 2],)),
    aten._adaptive_avg_pool2d_backward.default: ([(2, 4, 2, 2), IMAGE], ()),
    aten.upsample_bilinear2d.default: ([IMAGE], ([10, 12], False)),
    aten.upsample_nearest2d.default: ([IMAGE], ([10, 12],)),
    aten.mean.dim: ([IMAGE], ([1],)),
    aten.masked_fill.Scalar: ([IMAGE], (torch.ones(IMAGE, dtype=torch.bool), 0)),
}


# Contiguous, channels-last, and orders without a name.
ORDERS = {
    3: tuple(permutations(range(3))),
    4: ((0, 1, 2, 3), (0, 2, 3, 1), (0, 1, 3, 2), (0, 3, 1, 2), (1, 0, 2, 3), (3, 2, 1, 0)),
}


def in_every_order(shape):
    """Return tensors of this shape, one for each order of the dimensions in memory."""
    for order in ORDERS[len(shape)]:
        back = [order.index(dim) for dim in range(len(shape))]
        yield torch.ones([shape[dim] for dim in order]).permute(back)


def layouts(result):
    tensors = result if isinstance(result, tuple | list) else (result,)
    return [
        None
        if tensor is None
        else (
            tensor.dtype,
            [(n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1],
        )
        for tensor in tensors
    ]


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_strides(operation):
    shapes, rest = OPERATIONS[operation]
    wrong = []
    for tensors in product(*map(in_every_order, shapes)):
        real = layouts(operation(*tensors, *rest))
        mode = ObservedFakeMode(lambda *_: None, lambda *_: False)
        stand_ins = tree_map_only(Tensor, mode.stand_in, (*tensors, *rest))
        with mode:
            fake = layouts(operation(*stand_ins))
        if fake != real:
            wrong.append((real, fake))
    assert not wrong
