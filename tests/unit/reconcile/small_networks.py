"""Small networks, one line each, that together cover most ways to build and call a network.

`NETWORKS` are called with one random tensor, `CALLS` with other arguments. A test runs each of them
in `float32` and in the variants in which it behaves differently.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from layerscope.reconcile import CallArguments

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "bf16_autocast": {"dtype": "bf16_autocast"},
    "channels_last": {"channels_last": True},
    "eval": {"train": False},
    "input_gradient": {"input_requires_grad": True},
}
LOW, AUTOCAST, LAST, EVAL, INPUT = list(VARIANTS)[1:]


@dataclass(frozen=True)
class Small:
    """A network and its arguments.

    Args:
        variants: names of the VARIANTS in which it behaves differently.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = ()
    call: Callable[[], CallArguments] | None = None
    variants: tuple[str, ...] = ()


class Written(nn.Module):
    """A network whose forward is one function."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.written = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.written(self, *args, **kwargs)


IMAGE = (2, 3, 16, 16)
ROWS = (2, 5, 8)


def conv(channels: int = 3, filters: int = 8) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, 3, padding=1)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def image(function: Callable[[Tensor], Any], *variants: str) -> Small:
    """Return a function on the output of a convolution."""
    return Small(
        lambda: Written(lambda net, x: function(net.a(x)), a=conv()), IMAGE, variants=variants
    )


def behind(make: Callable[[], nn.Module], *variants: str) -> Small:
    """Return modules on the output of a convolution."""
    return Small(lambda: nn.Sequential(conv(), make()), IMAGE, variants=variants)


def rows(function: Callable[..., Any], *variants: str, shape: tuple[int, ...] = ROWS, **parts: Callable[[], nn.Module]) -> Small:  # fmt: skip
    """Return a function of the network and the output of a linear layer."""
    return Small(
        lambda: Written(
            lambda net, x: function(net, net.a(x)),
            a=nn.Linear(8, 8),
            **{name: make() for name, make in parts.items()},
        ),
        shape,
        variants=variants,
    )


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient * ctx.saved_tensors[0]


class Doubled(nn.Conv2d):
    """A subclass with a forward of its own: its operations are layers."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x)) * 2


def shifted(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    out = torch.zeros_like(y)
    out[:, :2] = y[:, 2:4]
    out[:, 2:] = y[:, 2:]
    return net.b(out)


def masked(net: Any, x: Tensor) -> Tensor:
    t = net.q(x).reshape(2, 17, 4, 4).permute(0, 2, 1, 3)
    y = F.scaled_dot_product_attention(t, t, t, attn_mask=net.mask)
    return y.transpose(1, 2).reshape(2, 17, 16)


def standardised(net: Any, x: Tensor) -> Tensor:
    gain = (net.g * 0.1).view(-1)
    flat = F.batch_norm(net.w.reshape(1, 8, -1), None, None, weight=gain, training=True)
    return F.conv2d(x, flat.reshape_as(net.w))


def without_gradient(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = net.a(x)
    return net.b(y)


def dropped(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    net.b(y).exp()
    return torch.cat([net.c(y), y], 1) + y.repeat(1, 2, 1, 1)


def pre_hooked() -> nn.Module:
    network = nn.Sequential(conv(), nn.ReLU())
    network[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return network


def frozen(network: nn.Module, *names: str) -> nn.Module:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not any(part in name for part in names))
    return network


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    network[2].weight = network[0].weight
    return network


def mixed_modes() -> nn.Module:
    network = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.Dropout(), conv(8), nn.BatchNorm2d(8))
    network[1].eval()
    return network


def block() -> nn.Module:
    return nn.Sequential(conv(8), nn.BatchNorm2d(8), nn.ReLU(), conv(8))


def unused_products(net: Any, x: Tensor) -> Tensor:
    """Nothing depends on any of these: a trace leaves them out."""
    net.c1(x.flatten(2))
    net.c3(x[:, :, None])
    net.t1(x.flatten(2))
    net.t2(x)
    net.t3(x[:, :, None])
    net.n(x)
    net.i(x)
    net.g(x)
    net.l(x)
    net.p(x)
    rows = x.flatten(0, 2)
    torch.mm(rows, net.w)
    torch.addmm(net.b, rows, net.w)
    torch.bmm(x.flatten(0, 1), net.w.expand(6, 16, 4))
    torch.matmul(x, net.w)
    torch.einsum("nchw,wk->nchk", x, net.w)
    F.adaptive_avg_pool2d(x, 2)
    F.interpolate(x, scale_factor=2)
    F.interpolate(x, scale_factor=2, mode="bilinear")
    F.grid_sample(x, x.new_zeros(2, 4, 4, 2), align_corners=False)
    return net.a(x)


def stack_of_branches(net: Any, x: Tensor) -> Tensor:
    first, second = net.a(x).chunk(2, dim=1)
    y = torch.cat([first * second, torch.tanh(first) / (second.abs() + 1.0)], dim=1)
    return net.l(y.permute(0, 2, 3, 1).reshape(-1, 8)).softmax(-1)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


UNARY = ("ReLU6", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "Sigmoid", "Tanh", "LogSigmoid", "LeakyReLU", "Hardswish", "Hardsigmoid", "Hardtanh", "Hardshrink", "Softplus", "Softsign", "Softshrink", "Tanhshrink")  # fmt: skip

NETWORKS: dict[str, Small] = {
    # Activations and dropout
    "relu": behind(nn.ReLU, LOW, AUTOCAST, LAST),
    **{name.lower(): behind(getattr(nn, name)) for name in UNARY},
    "elu of what is transposed": Small(lambda: Written(lambda net, x: net.b(F.elu(net.a(x).transpose(2, 3))), a=conv(), b=conv(8)), IMAGE),
    "prelu": behind(nn.PReLU, AUTOCAST),
    "prelu of each channel": behind(lambda: nn.PReLU(8)),
    "rrelu": behind(nn.RReLU, EVAL),
    "glu": behind(lambda: nn.GLU(1)),
    "gelu by tanh": behind(lambda: nn.GELU("tanh"), AUTOCAST),
    "relu in place": behind(lambda: nn.ReLU(inplace=True), LAST),
    "silu in place": image(lambda y: F.silu(y, inplace=True)),
    "hardswish in place": behind(lambda: nn.Sequential(nn.Hardswish(True), nn.ReLU(True))),
    "dropout": behind(lambda: nn.Sequential(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()), LOW, AUTOCAST, LAST, EVAL),
    "dropout in place": behind(lambda: nn.Dropout(0.5, inplace=True)),
    "dropout of nothing": behind(lambda: nn.Dropout(0.0)),
    "dropout of everything": behind(lambda: nn.Dropout(1.0)),
    "stochastic depth": behind(lambda: nn.Sequential(torchvision.ops.StochasticDepth(0.5, "row"), torchvision.ops.StochasticDepth(0.5, "batch"), torchvision.ops.StochasticDepth(0.0, "row")), EVAL),
    # Norms
    "batch norm": behind(lambda: nn.BatchNorm2d(8), LOW, AUTOCAST, LAST, EVAL, INPUT),
    "batch norm without affine": image(lambda y: F.batch_norm(y, None, None, training=True), AUTOCAST),
    "plain batch norm": behind(lambda: nn.BatchNorm2d(8, affine=False), EVAL),
    "batch norm without statistics": behind(lambda: nn.BatchNorm2d(8, track_running_stats=False), EVAL),
    "batch norm, momentum None": behind(lambda: nn.BatchNorm2d(8, momentum=None)),
    "batch norm of rows": rows(lambda net, y: net.n(y), shape=(4, 8), n=lambda: nn.BatchNorm1d(8)),
    "layer norm": behind(lambda: nn.LayerNorm(16), LOW, AUTOCAST, LAST),
    "plain layer norm": behind(lambda: nn.LayerNorm(16, elementwise_affine=False)),
    "rms norm": behind(lambda: nn.RMSNorm(16), LOW, AUTOCAST),
    "group norm": behind(lambda: nn.GroupNorm(2, 8), LOW, AUTOCAST, LAST),
    "plain group norm": behind(lambda: nn.GroupNorm(2, 8, affine=False)),
    "instance norm": behind(lambda: nn.InstanceNorm2d(8, affine=True), LOW, AUTOCAST, LAST),
    "plain instance norm": behind(lambda: nn.InstanceNorm2d(8)),
    "instance norm with statistics": behind(lambda: nn.InstanceNorm2d(8, track_running_stats=True), EVAL),
    "local response norm": behind(lambda: nn.LocalResponseNorm(3), AUTOCAST),
    # Convolutions
    "two convolutions": Small(lambda: nn.Sequential(conv(), conv(8)), IMAGE, variants=(LOW, AUTOCAST, LAST, INPUT)),
    "groups": behind(lambda: nn.Conv2d(8, 8, 3, groups=4), AUTOCAST, LAST),
    "depthwise": behind(lambda: nn.Conv2d(8, 8, 3, groups=8, bias=False), LAST),
    "grouped, dilated, strided": behind(lambda: nn.Conv2d(8, 8, 3, 2, 1, 2, 4)),
    "grouped at the front": Small(lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 8, 8), variants=(INPUT,)),
    "padding by name": behind(lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 4, padding="same"), nn.Conv2d(8, 8, 3, padding="valid")), AUTOCAST),
    "padding that reflects": Small(lambda: nn.Sequential(conv(), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.Conv2d(8, 8, 3, padding="same", padding_mode="circular")), IMAGE),
    "transposed": behind(lambda: nn.ConvTranspose2d(8, 4, 3, stride=2), LOW, AUTOCAST, LAST),
    "grouped transposed": behind(lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2, output_padding=1)),
    "patches": Small(lambda: nn.Conv2d(3, 8, 16, stride=16), IMAGE, variants=(AUTOCAST, LAST)),
    "the kernel is the image": Small(lambda: nn.Conv2d(3, 8, 16), IMAGE, variants=(INPUT,)),
    "odd channels": Small(lambda: nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(7 * 49, 3)), IMAGE, variants=(LAST,)),
    "one image without a batch": Small(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), (3, 8, 8)),
    "one dimension": Small(lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(2)), (2, 3, 20), variants=(AUTOCAST,)),
    "three dimensions": Small(lambda: nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1), nn.Flatten()), (2, 3, 8, 8, 8), variants=(LOW, AUTOCAST)),
    "transposed in one and three": Small(lambda: nn.Sequential(nn.ConvTranspose1d(3, 4, 3), nn.Unflatten(2, (2, 2, 2)), nn.ConvTranspose3d(4, 2, 2)), (2, 3, 6)),
    "a computed weight": Small(lambda: Written(standardised, w=weight(8, 3, 3, 3), g=weight(8, 1, 1, 1)), IMAGE, variants=(AUTOCAST,)),
    # Pooling and resampling
    "pools of a row": Small(lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.AvgPool1d(2), nn.LPPool1d(2, 2), nn.AdaptiveAvgPool1d(8), nn.MaxPool1d(2), nn.AdaptiveMaxPool1d(2)), (2, 3, 40)),
    "pools of a volume": Small(lambda: nn.Sequential(nn.Conv3d(3, 4, 1), nn.LPPool3d(2, 2), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(2), nn.AdaptiveMaxPool3d(1)), (2, 3, 8, 8, 8)),
    "max pool": behind(lambda: nn.MaxPool2d(3, 2, ceil_mode=True), LOW, LAST),
    "max pool of an image": Small(lambda: nn.MaxPool2d(2), (1, 3, 7, 7)),
    "max pool of a volume first": Small(lambda: nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(3, 4, 2)), (1, 3, 8, 8, 8)),
    "max pool of a frozen layer's output": Small(lambda: nn.Sequential(nn.Conv2d(3, 4, 3).requires_grad_(False), nn.MaxPool2d(2), nn.Conv2d(4, 2, 2)), IMAGE),
    "adaptive max pool first": Small(lambda: nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Conv2d(3, 4, 2)), IMAGE),
    "max pool with indices": image(lambda y: F.max_pool2d(y, 2, return_indices=True)),
    "max unpool of any indices": image(lambda y: F.max_unpool2d(y, torch.arange(256).view(16, 16).expand(2, 8, 16, 16), 1)),
    "max unpool": image(lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)),
    "average pools": behind(lambda: nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1)), LOW, AUTOCAST, LAST),
    "adaptive max pool": behind(lambda: nn.AdaptiveMaxPool2d(2), LAST),
    "adaptive pools of one and three": Small(lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveMaxPool1d(8), nn.Unflatten(2, (2, 2, 2)), nn.AdaptiveMaxPool3d(2), nn.AvgPool3d(2)), (2, 3, 20)),
    "fractional max pool": behind(lambda: nn.FractionalMaxPool2d(2, output_size=2)),
    "power pool": behind(lambda: nn.LPPool2d(2, 2), AUTOCAST),
    "nearest": image(lambda y: F.interpolate(y, scale_factor=2), LAST),
    "nearest exact": image(lambda y: F.interpolate(y, scale_factor=2, mode="nearest-exact")),
    "bilinear": image(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"), LOW, AUTOCAST, LAST),
    "bicubic": image(lambda y: F.interpolate(y, size=(20, 20), mode="bicubic")),
    "area": image(lambda y: F.interpolate(y, size=(8, 8), mode="area")),
    "anti-aliased": image(lambda y: F.interpolate(y, size=(8, 8), mode="bilinear", antialias=True)),
    "anti-aliased bicubic": image(lambda y: F.interpolate(y, size=(8, 8), mode="bicubic", antialias=True)),
    "linear and trilinear": Small(lambda: Written(lambda net, x: F.interpolate(F.interpolate(net.a(x), size=8, mode="linear").unflatten(2, (2, 2, 2)), scale_factor=2, mode="trilinear"), a=nn.Conv1d(3, 4, 3)), (2, 3, 8)),
    "upsample": behind(lambda: nn.Upsample(scale_factor=2)),
    "grid sample": Small(lambda: Written(lambda net, x: F.grid_sample(net.a(x), F.affine_grid(net.t, [2, 8, 9, 9], align_corners=False), align_corners=False), a=conv(), t=weight(2, 2, 3)), IMAGE, variants=(AUTOCAST,)),
    "nearest grid sample": Small(lambda: Written(lambda net, x: F.grid_sample(net.a(x), F.affine_grid(net.t, [2, 8, 9, 9], align_corners=True), mode="nearest", align_corners=True), a=conv(), t=weight(2, 2, 3)), IMAGE),
    "grid sample of a volume": Small(lambda: Written(lambda net, x: F.grid_sample(net.a(x), F.affine_grid(net.t, [2, 4, 3, 3, 3], align_corners=False), align_corners=False), a=nn.Conv3d(3, 4, 1), t=weight(2, 3, 4)), (2, 3, 4, 4, 4)),
    "padding modules": Small(lambda: nn.Sequential(conv(), nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ZeroPad2d(1), nn.CircularPad2d(1), nn.ConstantPad2d(1, 3.0), conv(8)), IMAGE, variants=(LAST,)),
    "unfold and fold": image(lambda y: F.fold(F.unfold(y, 3, padding=1) * 2, (16, 16), 3, padding=1), AUTOCAST),
    "shuffles": behind(lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)), LAST),
    # Products
    "linear": Small(lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)), (4, 8), variants=(LOW, AUTOCAST, INPUT)),
    "linear of one row": Small(lambda: nn.Linear(8, 5), (8,)),
    "linear of an image": behind(lambda: nn.Sequential(nn.Conv2d(8, 4, 1), nn.Linear(16, 3)), AUTOCAST, LAST),
    "linear of what is transposed": Small(lambda: Written(lambda net, x: net.l(net.a(x).reshape(2, 4, 1, 512).transpose(1, 2)), a=conv(), l=nn.Linear(512, 4)), IMAGE),
    "linear of what is permuted": Small(lambda: Written(lambda net, x: F.linear(net.a(x).permute(0, 2, 3, 1), net.w), a=conv(), w=weight(3, 8)), IMAGE),
    "bilinear layer": Small(lambda: Written(lambda net, x: net.a(net.b(x, x)), a=nn.Linear(4, 3), b=nn.Bilinear(8, 8, 4)), (5, 8), variants=(LOW, AUTOCAST, INPUT)),
    "einsum": Small(lambda: Written(lambda net, x: torch.einsum("bchw,oc->bohw", net.a(x), net.w), a=conv(), w=weight(4, 8)), IMAGE, variants=(AUTOCAST,)),
    "einsum of three": Small(lambda: Written(lambda net, x: torch.einsum("...c,oc,op->...p", net.a(x), net.w, net.v), a=nn.Linear(8, 8), w=weight(4, 8), v=weight(4, 6)), ROWS),
    "matmul": image(lambda y: y @ y.transpose(-1, -2), LOW, AUTOCAST),
    "matmul that broadcasts": Small(lambda: Written(lambda net, x: net.a(x).unsqueeze(1) @ net.w, a=nn.Linear(8, 8), w=weight(3, 8, 4)), ROWS),
    "bmm": image(lambda y: torch.bmm(y.flatten(0, 1), y.flatten(0, 1)), AUTOCAST),
    "addmm, baddbmm": Small(lambda: Written(lambda net, x: torch.baddbmm(net.b, net.w.expand(2, 4, 8), torch.addmm(net.c, net.a(x[0]), net.v).expand(2, 8, 8)), a=nn.Linear(8, 8), b=weight(2, 4, 8), c=weight(8), v=weight(8, 8), w=weight(1, 4, 8)), (2, 8, 8), variants=(AUTOCAST,)),
    "mv, dot, addmv": Small(lambda: Written(lambda net, x: torch.addmv(net.v[:2], net.a(x), net.v) * torch.dot(net.v, net.v) * torch.vdot(net.v, net.u) + torch.mv(net.a(x), net.v), a=nn.Linear(8, 8), u=weight(8), v=weight(8)), (2, 8)),
    "matmul with a vector": Small(lambda: Written(lambda net, x: net.a(x) @ net.v, a=nn.Linear(8, 8), v=weight(8)), (2, 8)),
    "vdot": Small(lambda: Written(lambda net, x: torch.vdot(net.a(x), net.v[:8]), a=nn.Linear(8, 8), v=weight(9)), (8,)),
    "addbmm": Small(lambda: Written(lambda net, x: torch.addbmm(net.b, net.a(x), net.w), a=nn.Linear(8, 8), b=weight(5, 3), w=weight(2, 8, 3)), ROWS, variants=(AUTOCAST,)),
    "mm": Small(lambda: Written(lambda net, x: torch.mm(net.a(x), net.w), a=nn.Linear(8, 8), w=weight(8, 3)), (2, 8), variants=(AUTOCAST,)),
    "cdist of many rows": image(lambda y: torch.cdist(y.reshape(64, 64), y.reshape(64, 64) + 1), AUTOCAST),
    "inner, tensordot": image(lambda y: torch.inner(y[0, 0], y[0, 1]) + torch.tensordot(y[0, 0], y[0, 1], ([1], [1])), AUTOCAST),
    "chains of products": image(lambda y: torch.linalg.multi_dot([y[0, 0], y[0, 1], y[0, 2]]) + torch.chain_matmul(y[0, 0], y[0, 1], y[0, 2]), AUTOCAST),
    "covariance": image(lambda y: torch.cov(y[0, 0]) + torch.corrcoef(y[0, 1]), AUTOCAST),
    "determinant": image(lambda y: torch.linalg.det(y[:, :, :4, :4])),
    "logarithm of a determinant": image(lambda y: torch.linalg.slogdet(y[:, :, :4, :4])[1]),
    "eigenvalues": Small(lambda: Written(lambda net, x: torch.view_as_real(torch.linalg.eig(net.a(x))[0]), a=nn.Linear(8, 8)), (8, 8)),
    "cdist": image(lambda y: torch.cdist(y.flatten(1), y.flatten(1)), AUTOCAST),
    "attention": rows(lambda net, y: F.scaled_dot_product_attention(net.q(y), net.k(y), net.v(y)), LOW, AUTOCAST, shape=(2, 4, 8), q=lambda: nn.Linear(8, 8), k=lambda: nn.Linear(8, 8), v=lambda: nn.Linear(8, 8)),
    "causal attention": rows(lambda net, y: F.scaled_dot_product_attention(y, y, y, is_causal=True), shape=(2, 4, 8)),
    "attention in heads": rows(lambda net, y: F.scaled_dot_product_attention(*(y.unflatten(2, (2, 4)).transpose(1, 2),) * 3), LOW, AUTOCAST, INPUT),
    "attention with dropout": rows(lambda net, y: F.scaled_dot_product_attention(y, y, y, dropout_p=0.1), AUTOCAST),
    "masked attention": Small(lambda: Written(masked, q=nn.Linear(8, 16), mask=weight(1, 4, 17, 17)), (2, 17, 8), variants=(AUTOCAST,)),
    "multi-head attention": Small(lambda: Written(lambda net, x: net.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)), ROWS, variants=(AUTOCAST, EVAL)),
    "attention without weights": Small(lambda: Written(lambda net, x: net.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(8, 2)), ROWS, variants=(LOW,)),
    "encoder layer": Small(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), ROWS, variants=(LOW, AUTOCAST, EVAL)),
    "long encoder layer": Small(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 256, 8)),
    "decoder layer": Small(lambda: Written(lambda net, x: net.d(x, x), d=nn.TransformerDecoderLayer(8, 2, 16)), ROWS),
    # Recurrent layers
    "lstm": rows(lambda net, y: net.l(y)[0], LOW, AUTOCAST, EVAL, l=lambda: nn.LSTM(8, 16, num_layers=2, batch_first=True)),
    "lstm in both directions": Small(lambda: Written(lambda net, x: net.l(x)[0], l=nn.LSTM(8, 16, bidirectional=True)), ROWS),
    "lstm without biases": Small(lambda: Written(lambda net, x: net.l(x)[0], l=nn.LSTM(8, 16, bias=False)), ROWS),
    "gru": rows(lambda net, y: net.l(y)[0], AUTOCAST, l=lambda: nn.GRU(8, 16, num_layers=2, batch_first=True)),
    "rnn": rows(lambda net, y: net.l(y)[0], AUTOCAST, l=lambda: nn.RNN(8, 16)),
    "rnn of relu": rows(lambda net, y: net.l(y)[0], l=lambda: nn.RNN(8, 16, nonlinearity="relu")),
    "lstm cell": rows(lambda net, y: net.l(y)[0], AUTOCAST, shape=(5, 8), l=lambda: nn.LSTMCell(8, 16)),
    "gru and rnn cells": rows(lambda net, y: net.r(net.l(y)), shape=(5, 8), l=lambda: nn.GRUCell(8, 16), r=lambda: nn.RNNCell(16, 8)),
    # Arithmetic, reductions, indices
    "number / tensor": image(lambda y: 1 / y, LOW),
    "arithmetic with numbers": image(lambda y: (1 - y) * 3.0 / 2 + (-y).sub(2, alpha=3)),
    "arithmetic": image(lambda y: y / (y.abs() + 1) - y * torch.rsqrt(y.square() + 1) + torch.add(y, y, alpha=2), AUTOCAST),
    "with a constant": image(lambda y: (torch.ones(1, 8, 1, 1).to(y) * y).sub(torch.ones(16).to(y))),
    "smaller first": image(lambda y: y.mean((2, 3), keepdim=True) * y + y.mean(1, keepdim=True) + y),
    "powers": image(lambda y: y**2 + y.abs() ** 3.5 + 2**y, AUTOCAST),
    "extremes": image(lambda y: torch.maximum(y, y * 2) + torch.minimum(y, y * 3) + y.clamp(min=0) * y.clamp_min(1)),
    "unary": image(lambda y: y.exp() + y.abs().sqrt() + y.reciprocal() + y.sin() + y.erf() + y.abs().log1p()),
    "at least": image(lambda y: y.clamp_min(0.5)),
    "where": image(lambda y: torch.where(y > 0, y, y * 2).masked_fill(y > 1, 0.0), LOW),
    "in place": image(lambda y: F.relu_(y.mul_(2).add_(1))),
    "angles": image(lambda y: torch.deg2rad(y) + torch.rad2deg(y)),
    "renorm": image(lambda y: y.renorm(2, 1, 1.0)),
    "dropout by its own name": image(lambda y: torch.native_dropout(y, 0.5, True)[0]),
    "gate in place": image(lambda y: (y * 1).mul_(torch.sigmoid(y))),
    "same twice": image(lambda y: y * y + (y + y)),
    "reductions": image(lambda y: y.sum(1).mean() + y.amax(1).amin() + y.mean()),
    "largest of a row": image(lambda y: y.max(1)[0] + y.min(1)[0] + y.median(1)[0] + y.cummax(1)[0].sum(1)),
    "cumulative": image(lambda y: y.cumsum(1) + y.logcumsumexp(1)),
    "products of a row": image(lambda y: y.prod(1) + y.cumprod(1).sum(1)),
    "largest of all": image(lambda y: y.max() + y.min() + y.median()),
    "argmax": image(lambda y: y.gather(1, y.argmax(1, keepdim=True))),
    "logsumexp": image(lambda y: y.logsumexp(1), AUTOCAST),
    "variances": image(lambda y: (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True) + 1e-5).sqrt() + y.std(1, keepdim=True), LOW),
    "norms": image(lambda y: F.normalize(y, dim=1) * y.norm() + torch.linalg.vector_norm(y, dim=1, keepdim=True), AUTOCAST),
    "softmax": behind(lambda: nn.Sequential(nn.Softmax(1), nn.LogSoftmax(1), nn.Softmin(1)), LOW, AUTOCAST, LAST),
    "index_select": image(lambda y: y.index_select(1, torch.tensor([0, 2, 2])).index_fill(1, torch.tensor([0]), 0.0)),
    "index_copy": image(lambda y: torch.zeros(4, 8, 16, 16).to(y).index_copy(0, torch.tensor([0, 1]), y) + torch.zeros(4, 8, 16, 16).to(y).index_put((torch.tensor([0]),), y[0])),
    "masked_select": image(lambda y: y.masked_select(y > 0)),
    "take": image(lambda y: y.take_along_dim(zeros(2, 8, 16, 16), 1) * y.tril() + y.triu()),
    "diagonal": image(lambda y: y.diagonal(0, 2, 3)),
    "triangle": image(lambda y: y.triu()),
    "list index": image(lambda y: y[:, [3, 1, 2]]),
    "fancy index": image(lambda y: y[[0, 1, 1]][:, torch.tensor([1, 2])]),
    "mask index": image(lambda y: y[y > 0]),
    "order": image(lambda y: y.flatten(1).topk(5)[0].sum() + y.flatten(1).sort()[0]),
    "gather and scatter": image(lambda y: torch.zeros(2, 9, 16, 16).to(y).scatter(1, zeros(2, 8, 16, 16), y.gather(1, zeros(2, 8, 16, 16)))),
    "index_add": image(lambda y: torch.zeros(4, 8, 16, 16).to(y).index_add(0, torch.tensor([0, 1]), y)),
    "slice assignment": Small(lambda: Written(shifted, a=conv(), b=conv(8)), IMAGE, variants=(AUTOCAST,)),
    "embedding": Small(lambda: Written(lambda net, x: net.l(net.e((x * 0).long())), e=nn.Embedding(5, 6), l=nn.Linear(6, 2)), (2, 3), variants=(LOW, AUTOCAST)),
    "weighted bag": Small(lambda: Written(lambda net, x: F.embedding_bag((x * 0).long(), net.e, per_sample_weights=net.w, mode="sum"), e=weight(5, 6), w=weight(2, 3)), (2, 3)),
    "bag without a gradient": Small(lambda: Written(lambda net, x: net.l(net.e((x * 0).long())), e=nn.EmbeddingBag(5, 6).requires_grad_(False), l=nn.Linear(6, 2)), (2, 3)),
    "bag of embeddings": Small(lambda: Written(lambda net, x: net.e((x * 0).long()), e=nn.EmbeddingBag(5, 6)), (2, 3)),
    "fourier": image(lambda y: torch.fft.irfft2(torch.fft.rfft2(y))),
    # Views and copies
    "moves": image(lambda y: torch.cat([y.roll(1, 1), y.flip(2), y.clone(), y.repeat(1, 2, 1, 1), F.pad(y, (1, -1))], 1)),
    "moves of every sort": image(lambda y: torch.cat([part.flatten() for part in (y.tile(1, 2, 1, 1), y.fliplr(), y.flipud(), y.rot90(1, (2, 3)), y.repeat_interleave(2, 1), torch.hstack([y, y]), torch.vstack([y, y]), torch.dstack([y, y]), torch.column_stack([y, y]))])),
    "new tensors": image(lambda y: sum(t.sum() for t in (torch.rand_like(y), torch.randn_like(y), torch.full_like(y, 2.0), torch.empty_like(y), y.new_empty(3), y.new_ones(3), y.new_zeros(3), y.new_full((3,), 1.0), torch.empty(3), torch.full((3,), 1.0), torch.rand(3), torch.randn(3), torch.linspace(0, 1, 3), torch.eye(3))) + y),
    "nearest in one and three": Small(lambda: Written(lambda net, x: F.interpolate(F.interpolate(F.interpolate(F.interpolate(net.a(x), scale_factor=2), scale_factor=2, mode="nearest-exact").unflatten(2, (4, 2, 2)), scale_factor=2), scale_factor=2, mode="nearest-exact"), a=nn.Conv1d(3, 4, 1)), (2, 3, 4)),
    "fractional pool of a volume": Small(lambda: nn.Sequential(nn.Conv3d(3, 4, 1), nn.FractionalMaxPool3d(2, output_size=2)), (2, 3, 4, 4, 4)),
    "relu6, a function": image(F.relu6),
    "stack": image(lambda y: torch.stack([y, y * 2])),
    "pieces": image(lambda y: torch.cat(y.split(2, 1)[::-1], 1) + y.unbind(1)[0][:, None] + y[:, :1] + y.narrow(1, 0, 1)),
    "expand": image(lambda y: y.mean((2, 3), keepdim=True).expand(2, 8, 16, 16) * y),
    "views": image(lambda y: y.unsqueeze(0).squeeze(0).flatten(1).unflatten(1, (8, 256)).transpose(1, 2).contiguous()),
    "reshape that copies": image(lambda y: y.permute(0, 2, 3, 1).reshape(2, -1), LAST),
    "to another dtype": image(lambda y: y.to(torch.float64).sum(1)),
    "detached": image(lambda y: y.detach() * 2 + y),
    "data": image(lambda y: y.data * y),
    # Parametrizations
    "weight norm": Small(lambda: nn.Sequential(conv(), parametrizations.weight_norm(conv(8))), IMAGE, variants=(AUTOCAST,)),
    "old weight norm": Small(lambda: nn.Sequential(conv(), torch.nn.utils.weight_norm(conv(8))), IMAGE),
    "spectral norm": Small(lambda: nn.Sequential(conv(), parametrizations.spectral_norm(conv(8))), IMAGE, variants=(EVAL,)),
    "orthogonal": Small(lambda: nn.Sequential(nn.Flatten(), parametrizations.orthogonal(nn.Linear(48, 4))), (2, 3, 4, 4)),
    "pruned": Small(lambda: nn.Sequential(conv(), prune.l1_unstructured(conv(8), "weight", 0.3)), IMAGE),
    # Arrangements
    "a hook that computes": Small(pre_hooked, IMAGE),
    "autograd.Function": Small(lambda: Written(lambda net, x: net.b(Square.apply(net.a(x))), a=conv(), b=conv(8)), IMAGE, variants=(AUTOCAST,)),
    "frozen front": Small(lambda: frozen(nn.Sequential(conv(), nn.ReLU(), conv(8)), "0."), IMAGE, variants=(AUTOCAST, INPUT)),
    "frozen middle": Small(lambda: frozen(nn.Sequential(conv(), nn.ReLU(), conv(8), nn.BatchNorm2d(8), conv(8)), "2.", "3."), IMAGE, variants=(AUTOCAST,)),
    "frozen weights": Small(lambda: frozen(nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 3)), "weight"), IMAGE, variants=(AUTOCAST,)),
    "frozen biases": Small(lambda: frozen(nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 3)), "bias"), IMAGE),
    "frozen head": Small(lambda: frozen(nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 3)), "3."), IMAGE),
    "everything frozen": Small(lambda: frozen(nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()), ""), IMAGE, variants=(INPUT,)),
    "no parameters": Small(nn.ReLU, IMAGE, variants=(INPUT,)),
    "mixed modes": Small(mixed_modes, IMAGE, variants=(AUTOCAST,)),
    "without gradient": Small(lambda: Written(without_gradient, a=conv(), b=conv(8)), IMAGE, variants=(AUTOCAST,)),
    "a branch that leads nowhere": Small(lambda: Written(dropped, a=conv(), b=conv(8), c=conv(8)), IMAGE),
    "products that lead nowhere": Small(lambda: Written(unused_products, a=conv(), c1=nn.Conv1d(3, 4, 3), c3=nn.Conv3d(3, 4, 1), t1=nn.ConvTranspose1d(3, 4, 3), t2=nn.ConvTranspose2d(3, 4, 3), t3=nn.ConvTranspose3d(3, 4, 1), n=nn.BatchNorm2d(3, track_running_stats=False), i=nn.InstanceNorm2d(3), g=nn.GroupNorm(1, 3), l=nn.LayerNorm(16), p=nn.Linear(16, 2), w=weight(16, 4), b=weight(4)), IMAGE),
    "branches": Small(lambda: Written(stack_of_branches, a=conv(), l=nn.Linear(8, 5, bias=False)), IMAGE, variants=(LOW, AUTOCAST, LAST)),
    "called twice": Small(lambda: Written(lambda net, x: net.b(net.b(net.a(x))), a=conv(), b=conv(8)), IMAGE, variants=(AUTOCAST,)),
    "tied weights": Small(tied, (4, 6)),
    "weight used again": Small(lambda: Written(lambda net, x: F.linear(net.l(x), net.l.weight.t()), l=nn.Linear(8, 5)), (2, 8), variants=(AUTOCAST,)),
    "a subclass": Small(lambda: nn.Sequential(Doubled(3, 4, 3), nn.Conv2d(4, 2, 1)), IMAGE),
    "nested outputs": image(lambda y: [y, {"a": y * 2}]),
    "checkpoint": Small(lambda: Written(lambda net, x: checkpoint(net.b, net.a(x), use_reentrant=False), a=conv(), b=nn.Sequential(conv(8), nn.ReLU())), IMAGE, variants=(AUTOCAST,)),
    "reentrant checkpoint": Small(lambda: Written(lambda net, x: checkpoint(net.b, net.a(x), use_reentrant=True), a=conv(), b=nn.Sequential(conv(8), nn.ReLU())), IMAGE),
    "checkpoint of a block": Small(lambda: Written(lambda net, x: net.d(checkpoint(net.b, net.a(x), use_reentrant=False)), a=conv(), b=block(), d=conv(8)), IMAGE, variants=(LOW, AUTOCAST)),
    "checkpoint of linear layers": rows(lambda net, y: checkpoint(net.b, y, use_reentrant=False), AUTOCAST, b=lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU())),
    "checkpoint of attention": rows(lambda net, y: checkpoint(lambda z: F.scaled_dot_product_attention(*(z.unflatten(2, (2, 4)).transpose(1, 2),) * 3).exp(), y, use_reentrant=False)),
    "checkpoint of products": rows(lambda net, y: checkpoint(lambda z: torch.baddbmm(z, z, net.w.expand(2, 8, 8)).exp(), y, use_reentrant=False), w=lambda: nn.Parameter(torch.ones(1, 8, 8))),
    # Losses inside
    "cross entropy": image(lambda y: F.cross_entropy(y.float(), zeros(2, 16, 16)), LOW, AUTOCAST),
    "cross entropy of rows": image(lambda y: F.cross_entropy(y.mean((2, 3)), zeros(2))),
    "binary cross entropy": image(lambda y: F.binary_cross_entropy_with_logits(y, torch.zeros_like(y)) + F.binary_cross_entropy(y.sigmoid(), torch.zeros_like(y))),
    "weighted losses": image(lambda y: F.binary_cross_entropy_with_logits(y, torch.zeros_like(y), pos_weight=torch.ones(16)) + F.cross_entropy(y, zeros(2, 16, 16), torch.ones(8)) + F.poisson_nll_loss(y, y.detach()) + F.margin_ranking_loss(y, y * 2, torch.ones_like(y))),
    "margin of the true class": rows(lambda net, y: F.multi_margin_loss(y, zeros(4)), shape=(4, 8)),
    "margin of a weighted class": rows(lambda net, y: F.multi_margin_loss(y, zeros(4), weight=torch.ones(8)), shape=(4, 8)),
    "margins of many classes": rows(lambda net, y: F.multilabel_margin_loss(y, zeros(4, 8)), shape=(4, 8)),
    "likelihood of classes": image(lambda y: F.nll_loss(y.mean((2, 3)).log_softmax(1), torch.zeros(2, dtype=torch.long))),
    "dropout as an operation": image(lambda y: torch.native_dropout(y, 0.5, True)[0]),
    "likelihood": image(lambda y: F.gaussian_nll_loss(y, torch.zeros_like(y), 1.0)),
    "more losses": rows(lambda net, y: F.multi_margin_loss(y, zeros(4)) + F.multilabel_margin_loss(y, zeros(4, 8)) + F.cosine_embedding_loss(y, y * 2, torch.ones(4)) + F.hinge_embedding_loss(y, torch.ones_like(y)), shape=(4, 8)),
    "distances": image(lambda y: F.mse_loss(y, y * 2) + F.smooth_l1_loss(y, y * 2) + F.l1_loss(y, y * 3) + F.huber_loss(y, y * 2), AUTOCAST),
    "divergence": image(lambda y: F.kl_div(y.log_softmax(1), y.softmax(1), reduction="sum") + F.soft_margin_loss(y, torch.ones_like(y)), AUTOCAST),
}  # fmt: skip


# Calls of every kind -----------------------------------------------------------------------------


@dataclass
class Answer:
    logits: Tensor
    hidden: list[Tensor] = field(default_factory=list)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape)


def two_inputs(net: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([net.a(x), net.b(y)], 1)


def with_mask(net: Any, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    y = net.l(net.e(ids))
    return {"logits": y if mask is None else y * mask[..., None], "ids": ids}


def answer(net: Any, x: Tensor) -> Answer:
    y = net.a(x)
    return Answer(net.b(y), [y])


CALLS: dict[str, Small] = {
    "two inputs": Small(lambda: Written(two_inputs, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(2, 4, 1)), call=lambda: CallArguments((numbers(2, 3, 8, 8), numbers(2, 2, 8, 8)))),
    "keyword arguments": Small(lambda: Written(two_inputs, a=nn.Linear(4, 3), b=nn.Linear(5, 3)), call=lambda: CallArguments((), {"x": numbers(2, 4), "y": numbers(2, 5)})),
    "token ids": Small(lambda: Written(with_mask, e=nn.Embedding(9, 8), l=nn.Linear(8, 3)), call=lambda: CallArguments((zeros(2, 5),))),
    "token ids and a mask": Small(lambda: Written(with_mask, e=nn.Embedding(9, 8), l=nn.Linear(8, 3)), call=lambda: CallArguments((zeros(2, 5),), {"mask": torch.ones(2, 5)}), variants=(AUTOCAST,)),
    "a dataclass returned": Small(lambda: Written(answer, a=nn.Linear(4, 4), b=nn.Linear(4, 2)), call=lambda: CallArguments((numbers(2, 4),), loss=lambda a: a.logits.square().mean())),
    "a list and a dict given": Small(lambda: Written(lambda net, xs, d: net.a(xs[0] + xs[1] * d["z"]), a=nn.Linear(4, 3)), call=lambda: CallArguments(([numbers(2, 4), numbers(2, 4)], {"z": numbers(4), "unused": 3}))),
    "numbers and None given": Small(lambda: Written(lambda net, x, k, none: net.a(x) * k, a=nn.Linear(4, 3)), call=lambda: CallArguments((numbers(2, 4), 3, None))),
    "a loss of one's own": Small(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), call=lambda: CallArguments((numbers(2, 3, 4, 4),), loss=lambda y: F.cross_entropy(y, zeros(2))), variants=(AUTOCAST,)),
    "a loss of a part": Small(lambda: Written(lambda net, x: (net.a(x), net.b(x)), a=nn.Linear(4, 3), b=nn.Linear(4, 3)), call=lambda: CallArguments((numbers(2, 4),), loss=lambda ys: ys[0].sum())),
    "an input that learns": Small(lambda: Written(two_inputs, a=nn.Linear(4, 3), b=nn.Linear(5, 3)), call=lambda: CallArguments((numbers(2, 4).requires_grad_(), numbers(2, 5)))),
    "one dimension": Small(lambda: nn.Linear(4, 3), call=lambda: CallArguments((numbers(4),))),
    "two dimensions": Small(lambda: nn.Linear(4, 3), call=lambda: CallArguments((numbers(2, 4),))),
    "three dimensions": Small(lambda: nn.Conv1d(4, 3, 3), call=lambda: CallArguments((numbers(2, 4, 8),))),
    "five dimensions": Small(lambda: nn.Conv3d(2, 3, 3), call=lambda: CallArguments((numbers(2, 2, 4, 4, 4),))),
    "mixed dtypes": Small(lambda: Written(lambda net, x: net.b(net.a(x).double()), a=nn.Linear(4, 3), b=nn.Linear(3, 2).double()), call=lambda: CallArguments((numbers(2, 4),))),
    "complex": Small(lambda: Written(lambda net, x: torch.view_as_real(net.a(x)).sum(-1), a=nn.Linear(4, 3, dtype=torch.complex64)), call=lambda: CallArguments((torch.randn(2, 4, dtype=torch.complex64),))),
    "float64": Small(lambda: nn.Sequential(conv(), nn.BatchNorm2d(8)).double(), call=lambda: CallArguments((numbers(*IMAGE).double(),))),
}  # fmt: skip
