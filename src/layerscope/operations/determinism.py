"""Operations that torch refuses on CUDA under `torch.use_deterministic_algorithms(True)`."""

from collections.abc import Mapping

# The second list in the documentation of torch.use_deterministic_algorithms: each name there, and
# the ATen operations that raise.
REFUSED_ON_CUDA: Mapping[str, tuple[str, ...]] = {
    "torch.nn.AvgPool3d": ("aten::avg_pool3d_backward",),
    "torch.nn.AdaptiveAvgPool2d": ("aten::_adaptive_avg_pool2d_backward",),
    "torch.nn.AdaptiveAvgPool3d": ("aten::_adaptive_avg_pool3d_backward",),
    "torch.nn.AdaptiveMaxPool2d": ("aten::adaptive_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool2d": ("aten::fractional_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool3d": ("aten::fractional_max_pool3d_backward",),
    "torch.nn.MaxUnpool1d": ("aten::max_unpool2d",),
    "torch.nn.MaxUnpool2d": ("aten::max_unpool2d",),
    "torch.nn.MaxUnpool3d": ("aten::max_unpool3d",),
    "torch.nn.functional.interpolate": (
        "aten::upsample_linear1d_backward",
        "aten::upsample_bilinear2d_backward",
        "aten::_upsample_bilinear2d_aa_backward",
        "aten::upsample_bicubic2d_backward",
        "aten::_upsample_bicubic2d_aa_backward",
        "aten::upsample_trilinear3d_backward",
    ),
    "torch.nn.ReflectionPad1d": ("aten::reflection_pad1d_backward",),
    "torch.nn.ReflectionPad2d": ("aten::reflection_pad2d_backward",),
    "torch.nn.ReflectionPad3d": ("aten::reflection_pad3d_backward",),
    # Only for images; the loss of (N, C) is deterministic.
    "torch.nn.NLLLoss": ("aten::nll_loss2d_forward",),
    "torch.nn.CTCLoss": ("aten::_ctc_loss_backward",),
    "torch.nn.EmbeddingBag": (),  # only in mode "max", which the operation's name does not tell
    "torch.Tensor.put_": ("aten::put_",),
    "torch.histc": ("aten::histc",),
    "torch.bincount": (),  # no gradient needs it, and only weights are refused
    "torch.median": ("aten::median.dim",),
    "torch.nn.functional.grid_sample": (
        "aten::grid_sampler_2d_backward",
        "aten::grid_sampler_3d_backward",
    ),
    "torch.Tensor.scatter_reduce": (),  # sum and mean are deterministic
}
_OPERATIONS = frozenset(name for names in REFUSED_ON_CUDA.values() for name in names)


def is_refused_on_cuda(operation: str) -> bool:
    """Tell whether an operation (`aten::median.dim`, or without overload) is refused."""
    return operation in _OPERATIONS or operation.partition(".")[0] in _OPERATIONS
