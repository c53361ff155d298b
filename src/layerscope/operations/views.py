"""Functions and operations that compute nothing: views, copies, new tensors, indexing."""

from layerscope.operations.family import Family

# Views where nothing has to be converted.
CONVERSIONS = ("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda")
# The textbook stores no output for these views.
_VIEWS = (
    *("flatten", "unflatten", "view", "view_as", "reshape", "reshape_as", "permute", "transpose"),
    *("swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as"),
    *("broadcast_to", "broadcast_tensors", "detach", "contiguous", *CONVERSIONS),
    *("t", "T", "mT", "H", "mH", "real", "imag", "data", "adjoint", "ravel"),
    *("atleast_1d", "atleast_2d", "atleast_3d", "alias", "diagonal", "unfold_view"),
    *("chunk", "split", "split_with_sizes", "unbind", "tensor_split", "narrow", "select"),
    *("getitem", "hsplit", "vsplit", "dsplit", "view_as_real", "view_as_complex", "positive"),
    "requires_grad",
)

_PARAMETERS = {
    "flatten": ("input", "start_dim", "end_dim"),
    "permute": ("input", "dims"),
    "transpose": ("input", "dim0", "dim1"),
    "swapaxes": ("input", "axis0", "axis1"),
    "swapdims": ("input", "dim0", "dim1"),
    "movedim": ("input", "source", "destination"),
    "moveaxis": ("input", "source", "destination"),
    "cat": ("tensors", "dim"),
    "stack": ("tensors", "dim"),
    "chunk": ("input", "chunks", "dim"),
    "split": ("input", "split_size", "dim"),
    "pad": ("input", "pad", "mode", "value"),
}

# These copy, make or choose values, and compute none.
_MOVES = (
    *("clone", "repeat", "tile", "roll", "flip", "fliplr", "flipud", "rot90", "repeat_interleave"),
    *("pad", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
    *("cat", "stack", "hstack", "vstack", "dstack", "column_stack"),
    *("empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "tensor", "eye"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor", "as_tensor", "scalar_tensor"),
)

_DEFAULTS = {"flatten": {"start_dim": 0, "end_dim": -1}, "cat": {"dim": 0}}
_SETTINGS = {"flatten": ("start_dim", "end_dim")}

# The elements stay in row-major order, whatever the shapes.
IN_ORDER = frozenset(
    {
        *("flatten", "unflatten", "view", "view_as", "reshape", "reshape_as"),
        *("squeeze", "unsqueeze", "contiguous", "clone"),
    }
)


def _family(name: str, *, is_view: bool) -> Family:
    return Family(
        name,
        (name,),
        parameters=_PARAMETERS.get(name, ("input",)),
        is_view=is_view,
        settings=_SETTINGS.get(name, ()),
        defaults=_DEFAULTS.get(name, {}),
    )


FAMILIES = (
    *(_family(name, is_view=True) for name in _VIEWS),
    *(_family(name, is_view=False) for name in _MOVES),
)

# Operations that move data, for calls outside of the functions above.
MOVES = frozenset(
    f"aten::{name}"
    for name in (
        *(
            *("diag", "diag_embed", "block_diag", "_pack_padded_sequence", "_unsafe_view"),
            "clone",
            "copy",
            "_to_copy",
            "contiguous",
            "cat",
            "stack",
            "repeat",
            "roll",
            "flip",
        ),
        *(
            "index",
            "index_put",
            "_unsafe_index",
            "_unsafe_index_put",
            "_index_put_impl",
            "index_copy",
        ),
        *("index_fill", "index_select", "gather", "scatter", "select_scatter", "slice_scatter"),
        *("diagonal_scatter", "masked_scatter", "masked_select", "take", "put", "nonzero", "tril"),
        *("triu", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
        *("replication_pad1d", "replication_pad2d", "replication_pad3d", "im2col", "unfold"),
        *("unfold_copy", "embedding", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
        *(
            "native_channel_shuffle",
            "empty",
            "empty_like",
            "empty_strided",
            "empty_permuted",
            "zeros",
        ),
        *("zeros_like", "ones", "ones_like", "full", "full_like", "new_empty", "new_empty_strided"),
        *(
            "new_zeros",
            "new_ones",
            "new_full",
            "arange",
            "linspace",
            "logspace",
            "eye",
            "scalar_tensor",
        ),
        *(
            "rand",
            "rand_like",
            "randn",
            "randn_like",
            "randint",
            "randint_like",
            "randperm",
            "uniform",
        ),
        *("normal", "normal_functional", "bernoulli", "random", "exponential", "geometric", "fill"),
        *("zero", "set", "resize", "sort", "topk", "argsort", "kthvalue", "unique", "_unique2"),
        *(
            "unique_dim",
            "unique_consecutive",
            "searchsorted",
            "bucketize",
            "one_hot",
            "tril_indices",
        ),
        *(
            "triu_indices",
            "complex",
            "polar",
            "_local_scalar_dense",
            "item",
            "equal",
            "is_same_size",
        ),
        *(
            "lift",
            "lift_fresh",
            "_conj",
            "resolve_conj",
            "resolve_neg",
            "cartesian_prod",
            "meshgrid",
        ),
        *("rot90", "unsafe_split", "unsafe_chunk", "nan_to_num", "max_unpool2d", "max_unpool3d"),
        *(
            "_foreach_copy",
            "record_stream",
            "_assert_async",
            "_assert_scalar",
            "as_strided_scatter",
        ),
    )
)
