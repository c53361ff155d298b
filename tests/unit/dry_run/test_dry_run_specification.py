"""The table of saved tensors, against torch's own generator and against what torch saves."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch.utils._pytree import tree_leaves

from layerscope.dry_run.specification import specification

SHIPPED = ("2.11", "2.12", "2.13", "2.14", "2.15")


def test_table_is_what_the_generator_reads_from_the_installed_torch(scripts):
    command = [sys.executable, scripts / "generate_specification.py", "--check"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("version", ["2.10.0", "2.110.0", "3.0", "2", "", "unknown"])
def test_unknown_version_has_no_table(version):
    assert specification(version) is None


@pytest.mark.parametrize("version", ["2.11.0", "2.12.1+cu128", "2.13.0a0+git1234567", "2.15"])
def test_version_is_found_by_its_minor_release(version):
    assert specification(version) == specification(version[:4])


@pytest.mark.parametrize("version", SHIPPED)
def test_every_row_is_consistent(version):
    table = specification(version)
    assert table is not None
    assert len(table) > 900
    for name, row in table.items():
        for saved in row.saves:
            assert (saved.kind == "input") == (saved.argument is not None), name
            assert (saved.kind == "output") == (saved.result is not None), name
            assert saved.guard is None or set(saved.guard) <= set(row.differentiable), name
            assert not saved.is_copy or saved.argument == "self", name
        # A row without an argument that has a gradient could never save anything.
        assert row.differentiable or not row.saves, name


def test_versions_differ_where_torch_does():
    """Torch 2.14 made cholesky a composite operation, and torch 2.12 gave aminmax a formula."""
    tables = {version: specification(version) or {} for version in SHIPPED}
    assert [v for v, table in tables.items() if "aten::cholesky" in table] == [
        "2.11",
        "2.12",
        "2.13",
    ]
    assert [v for v, table in tables.items() if "aten::aminmax" not in table] == ["2.11"]


def test_every_name_is_in_the_schema_of_the_installed_torch():
    table = specification()
    assert table is not None
    schemas = {
        f"{schema.name}.{schema.overload_name}".removesuffix("."): schema
        for schema in torch._C._jit_get_all_schemas()
    }
    for name, row in table.items():
        schema = schemas[name]
        arguments = {argument.name for argument in schema.arguments}
        assert set(row.differentiable) <= arguments, name
        for saved in row.saves:
            if saved.result is None:
                assert saved.argument in arguments, name
            else:
                assert saved.result < len(schema.returns), name


def numbers(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def whole(*values):
    return torch.tensor(values)


def definite():
    """Return a positive definite matrix."""
    return numbers(3, 3) @ numbers(3, 3).T + 3 * torch.eye(3)


V = (3,)
M = (3, 3)
IMAGE = (2, 4, 6, 6)
UNARY = """
    abs acos asin asinh atan atanh ceil cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1
    floor frac gelu hardsigmoid hardswish hardtanh i0 leaky_relu lgamma log log10 log1p log2
    log_sigmoid_forward logit mish neg rad2deg reciprocal relu round rsqrt sgn sigmoid sign silu sin
    sinc sinh softplus sqrt tan tanh trunc mean sum prod std.correction var.correction
    amax amin aminmax max min median t clone alias
"""
IN_PLACE = """
    abs_ acos_ ceil_ cos_ elu_ erf_ exp_ expm1_ frac_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_
    log_ log1p_ mish_ neg_ reciprocal_ relu_ rsqrt_ sigmoid_ silu_ sin_ sqrt_ tan_ tanh_ zero_
"""
BINARY = """
    add.Tensor sub.Tensor rsub.Tensor mul.Tensor div.Tensor pow.Tensor_Tensor atan2
    fmod.Tensor remainder.Tensor maximum minimum fmax fmin hypot logaddexp copysign.Tensor
    xlogy.Tensor clamp_min.Tensor mse_loss smooth_l1_loss huber_loss dot add_.Tensor
    sub_.Tensor mul_.Tensor div_.Tensor pow_.Tensor atan2_ hypot_ copy_ sigmoid_backward
    tanh_backward gelu_backward hardswish_backward
"""
CASES = {
    **{name: lambda: [numbers(*M)] for name in UNARY.split()},
    **{name: lambda: [numbers(*M)] for name in IN_PLACE.split()},
    # Elementwise, of two and more
    **{name: lambda: [numbers(*V), numbers(*V) + 0.5] for name in BINARY.split()},
    "mul.Scalar": lambda: [numbers(*V), 2.0],
    "div.Scalar": lambda: [numbers(*V), 2.0],
    "pow.Tensor_Scalar": lambda: [numbers(*V), 3.0],
    "pow.Scalar": lambda: [2.0, numbers(*V)],
    "pow_.Scalar": lambda: [numbers(*V), 3.0],
    "mul_.Scalar": lambda: [numbers(*V), 2.0],
    "clamp": lambda: [numbers(*V), 0.2, 0.7],
    "clamp.Tensor": lambda: [numbers(*V), numbers(*V), numbers(*V)],
    "clamp_": lambda: [numbers(*V), 0.2, 0.7],
    "threshold": lambda: [numbers(*V), 0.5, 0.0],
    "threshold_backward": lambda: [numbers(*V), numbers(*V), 0.5],
    "addcmul": lambda: [numbers(*V), numbers(*V), numbers(*V)],
    "addcmul_": lambda: [numbers(*V), numbers(*V), numbers(*V)],
    "addcdiv": lambda: [numbers(*V), numbers(*V), numbers(*V)],
    "addcdiv_": lambda: [numbers(*V), numbers(*V), numbers(*V)],
    "lerp.Tensor": lambda: [numbers(*V), numbers(*V), numbers(*V)],
    "lerp.Scalar": lambda: [numbers(*V), numbers(*V), 0.5],
    "where.self": lambda: [numbers(*V) > 0.5, numbers(*V), numbers(*V)],
    "masked_fill.Scalar": lambda: [numbers(*V), numbers(*V) > 0.5, 0.0],
    "masked_fill_.Scalar": lambda: [numbers(*V), numbers(*V) > 0.5, 0.0],
    "masked_fill.Tensor": lambda: [numbers(*V), numbers(*V) > 0.5, numbers()],
    "masked_scatter": lambda: [numbers(*V), numbers(*V) > 0.5, numbers(*V)],
    "masked_select": lambda: [numbers(*V), numbers(*V) > 0.5],
    "fill_.Scalar": lambda: [numbers(*V), 1.0],
    "native_dropout": lambda: [numbers(*V), 0.5, True],
    "_prelu_kernel": lambda: [numbers(*V) - 0.5, numbers(*V)],
    "rrelu_with_noise": lambda: [numbers(*V) - 0.5, numbers(*V), 0.1, 0.3, True],
    "glu": lambda: [numbers(4, 4), 1],
    "argmax": lambda: [numbers(*M), 1],
    "detach": lambda: [numbers(*M)],
    # Products
    "mm": lambda: [numbers(*M), numbers(*M)],
    "mv": lambda: [numbers(*M), numbers(*V)],
    "bmm": lambda: [numbers(2, *M), numbers(2, *M)],
    "addmm": lambda: [numbers(*V), numbers(*M), numbers(*M)],
    "addmm_": lambda: [numbers(*M), numbers(*M), numbers(*M)],
    "addmv": lambda: [numbers(*V), numbers(*M), numbers(*V)],
    "addr": lambda: [numbers(*M), numbers(*V), numbers(*V)],
    "baddbmm": lambda: [numbers(2, *M), numbers(2, *M), numbers(2, *M)],
    "_trilinear": lambda: [*(numbers(2, *M) for _ in range(3)), [], [], [], [1]],
    "_euclidean_dist": lambda: [numbers(*M), numbers(*M) + 1],
    "_cdist_forward": lambda: [numbers(*M), numbers(*M) + 1, 2.0, None],
    # Reductions along a dimension, scans, order
    "sum.dim_IntList": lambda: [numbers(*M), [1]],
    "mean.dim": lambda: [numbers(*M), [1]],
    "prod.dim_int": lambda: [numbers(*M), 1],
    "max.dim": lambda: [numbers(*M), 1],
    "min.dim": lambda: [numbers(*M), 1],
    "median.dim": lambda: [numbers(*M), 1],
    "mode": lambda: [numbers(*M), 1],
    "kthvalue": lambda: [numbers(*M), 2, 1],
    "sort": lambda: [numbers(*M), 1],
    "topk": lambda: [numbers(*M), 2],
    "logsumexp": lambda: [numbers(*M), [1]],
    "linalg_vector_norm": lambda: [numbers(*M), 2.0, [1]],
    "norm.ScalarOpt_dim": lambda: [numbers(*M), 2.0, [1]],
    "cumsum": lambda: [numbers(*M), 1],
    "cumprod": lambda: [numbers(*M), 1],
    "logcumsumexp": lambda: [numbers(*M), 1],
    "_softmax": lambda: [numbers(*M), 1, False],
    "_log_softmax": lambda: [numbers(*M), 1, False],
    "_softmax_backward_data": lambda: [numbers(*M), numbers(*M), 1, torch.float32],
    "_log_softmax_backward_data": lambda: [numbers(*M), numbers(*M), 1, torch.float32],
    # Views, copies, indices
    "view": lambda: [numbers(*M), [9]],
    "expand": lambda: [numbers(3, 1), [3, 3]],
    "permute": lambda: [numbers(*M), [1, 0]],
    "transpose.int": lambda: [numbers(*M), 0, 1],
    "slice.Tensor": lambda: [numbers(*M), 0, 0, 2],
    "select.int": lambda: [numbers(*M), 0, 1],
    "split.Tensor": lambda: [numbers(*M), 1],
    "unbind.int": lambda: [numbers(*M)],
    "cat": lambda: [[numbers(*M), numbers(*M)]],
    "stack": lambda: [[numbers(*M), numbers(*M)]],
    "repeat": lambda: [numbers(*M), [2, 2]],
    "roll": lambda: [numbers(*M), [1], [0]],
    "tril": lambda: [numbers(*M)],
    "constant_pad_nd": lambda: [numbers(*M), [1, 1]],
    "_to_copy": lambda: [numbers(*M)],
    "index.Tensor": lambda: [numbers(*M), [None, whole(0, 2)]],
    "index_put": lambda: [numbers(*V), [whole(0, 2)], numbers(2)],
    "index_put_": lambda: [numbers(*V), [whole(0, 2)], numbers(2)],
    "index_select": lambda: [numbers(*M), 0, whole(0, 2)],
    "index_add": lambda: [numbers(*M), 0, whole(0, 2), numbers(2, 3)],
    "index_copy": lambda: [numbers(*M), 0, whole(0, 2), numbers(2, 3)],
    "gather": lambda: [numbers(*M), 0, torch.zeros(2, 3, dtype=torch.long)],
    "scatter.src": lambda: [numbers(*V), 0, whole(0, 2), numbers(2)],
    "scatter_add": lambda: [numbers(*V), 0, whole(0, 2), numbers(2)],
    "scatter_reduce.two": lambda: [numbers(*V), 0, whole(0, 2), numbers(2), "amax"],
    "embedding": lambda: [numbers(*M), whole(0, 2)],
    # Layers
    "convolution": lambda: [
        *(numbers(*IMAGE), numbers(5, 4, 3, 3), numbers(5)),
        *([1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ],
    "convolution_backward": lambda: [
        *(numbers(2, 5, 6, 6), numbers(*IMAGE), numbers(5, 4, 3, 3), [5]),
        *([1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True]),
    ],
    "native_batch_norm": lambda: [
        *(numbers(*IMAGE), numbers(4), numbers(4), numbers(4), numbers(4)),
        *(True, 0.1, 1e-5),
    ],
    "native_layer_norm": lambda: [numbers(*M), [3], numbers(3), numbers(3), 1e-5],
    "native_group_norm": lambda: [numbers(*IMAGE), numbers(4), numbers(4), 2, 4, 36, 2, 1e-5],
    "native_layer_norm_backward": lambda: [
        *(numbers(*M), numbers(*M), [3], numbers(3, 1), numbers(3, 1), numbers(3), numbers(3)),
        [True, True, True],
    ],
    "max_pool2d_with_indices": lambda: [numbers(*IMAGE), [2, 2]],
    "avg_pool2d": lambda: [numbers(*IMAGE), [2, 2]],
    "avg_pool2d_backward": lambda: [
        *(numbers(2, 4, 3, 3), numbers(*IMAGE), [2, 2], [2, 2], [0, 0]),
        *(False, True, None),
    ],
    "_adaptive_avg_pool2d": lambda: [numbers(*IMAGE), [3, 3]],
    "adaptive_max_pool2d": lambda: [numbers(*IMAGE), [3, 3]],
    "upsample_nearest2d": lambda: [numbers(*IMAGE), [12, 12]],
    "upsample_bilinear2d": lambda: [numbers(*IMAGE), [12, 12], False],
    "pixel_shuffle": lambda: [numbers(*IMAGE), 2],
    "grid_sampler_2d": lambda: [numbers(*IMAGE), numbers(2, 3, 3, 2), 0, 0, False],
    "_scaled_dot_product_flash_attention_for_cpu": lambda: [
        *(numbers(1, 2, 4, 8) for _ in range(3)),
        *(0.0, False, numbers(4, 4)),
    ],
    # Losses
    "nll_loss_forward": lambda: [numbers(*M), whole(0, 1, 2), numbers(*V), 1, -100],
    "nll_loss2d_forward": lambda: [
        *(numbers(2, 3, 1, 1), torch.zeros(2, 1, 1, dtype=torch.long), numbers(*V), 1, -100),
    ],
    "binary_cross_entropy": lambda: [numbers(*V), numbers(*V), numbers(*V)],
    "binary_cross_entropy_with_logits": lambda: [numbers(*V) for _ in range(4)],
    "soft_margin_loss": lambda: [numbers(*V), numbers(*V)],
    # Linear algebra
    "linalg_cholesky_ex": lambda: [definite()],
    "linalg_inv_ex": lambda: [definite()],
    "linalg_qr": lambda: [definite()],
    "_linalg_det": lambda: [definite()],
    "_linalg_eigh": lambda: [definite()],
    "_linalg_svd": lambda: [definite()],
    "_linalg_solve_ex": lambda: [definite(), numbers(*M)],
    # Lists
    "_foreach_add.List": lambda: [[numbers(*V), numbers(*M)], [numbers(*V), numbers(*M)]],
    "_foreach_mul.List": lambda: [[numbers(*V), numbers(*M)], [numbers(*V), numbers(*M)]],
    "_foreach_mul_.List": lambda: [[numbers(*V), numbers(*M)], [numbers(*V), numbers(*M)]],
    "_foreach_exp": lambda: [[numbers(*V), numbers(*M)]],
    "_foreach_exp_": lambda: [[numbers(*V), numbers(*M)]],
    "_foreach_sin_": lambda: [[numbers(*V), numbers(*M)]],
    "_foreach_addcdiv.Scalar": lambda: [[numbers(*V), numbers(*M)] for _ in range(3)],
}


def overload(name):
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def tensors_in(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def storage(tensor):
    return tensor.untyped_storage()._cdata


def with_gradient(argument):
    """Return tensors that require a gradient and are no leaves, so that they may be overwritten."""
    if isinstance(argument, list):
        return [with_gradient(tensor) for tensor in argument]
    return argument.requires_grad_().clone()


def subsets_with_gradient(arguments):
    """Return every set of names whose tensors can require a gradient, including the empty set."""
    possible = [
        name
        for name, argument in arguments.items()
        if any(tensor.is_floating_point() for tensor in tensors_in(argument))
    ]
    for count in range(len(possible) + 1):
        yield from map(set, itertools.combinations(possible, count))


# Not in the table: their autograd kernel is written by hand, or they have no gradient at all.
ABSENT = {"argmax", "copy_", "detach"}


@pytest.mark.parametrize("name", sorted(CASES))
def test_table_lists_what_torch_saves(name):
    operation = overload(name)
    names = [argument.name for argument in operation._schema.arguments]
    row = None if name in ABSENT else specification()[f"aten::{name}"]
    for requires_grad in subsets_with_gradient(dict(zip(names, CASES[name](), strict=False))):
        arguments = dict(zip(names, CASES[name](), strict=False))
        arguments |= {key: with_gradient(arguments[key]) for key in requires_grad}
        before = [tensor.detach().clone() for tensor in tensors_in(arguments.get("self"))]
        saved = []
        try:
            with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda packed: packed):
                result = operation(**arguments)
        except RuntimeError:
            if row is None or requires_grad <= set(row.differentiable):
                raise
            # Torch refused an argument that has no gradient formula, as the table says.
            continue

        results = result if len(operation._schema.returns) > 1 else [result]
        place = {storage(t): f"result {i}" for i, r in enumerate(results) for t in tensors_in(r)}
        place |= {storage(t): key for key, value in arguments.items() for t in tensors_in(value)}
        seen = []
        for tensor in saved:
            seen.append(place.get(storage(tensor), "copy"))
            if seen[-1] == "copy":
                assert any(torch.equal(tensor, value) for value in before)

        told = []
        for entry in row.given(requires_grad) if row else ():
            if entry.kind == "input":
                tensors = tensors_in(arguments.get(entry.argument))
            else:
                tensors = tensors_in(results[entry.result])
            told += ["copy" if entry.is_copy else place[storage(tensor)] for tensor in tensors]
        assert sorted(seen) == sorted(told), requires_grad
        if row:
            written = result if operation._schema.returns else arguments["self"]
            has_gradient = any(tensor.requires_grad for tensor in tensors_in(written))
            assert has_gradient == bool(requires_grad & set(row.differentiable)), requires_grad
