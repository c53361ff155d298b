"""Costs of single calls, worked out by hand from the conventions of docs/accounting.md.

A row has a function, the shape of its tensor, its MACs, its forward FLOPs, and the FLOPs of the
gradients of input, weight and bias. By the textbook every output is stored, except a view.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from layerscope.dry_run import DryRun, dry_run
from layerscope.reconcile.account import account
from layerscope.reconcile.flops import counter_backward_prediction, counter_forward_prediction


@dataclass(frozen=True)
class Worked:
    call: Callable[[Tensor], Any]
    shape: tuple[int, ...]
    macs: int
    forward: int
    input_gradient: int
    weight_gradient: int = 0
    bias_gradient: int = 0
    is_view: bool = False
    counted: tuple[bool, bool] = (True, True)

    def expected(self, run: DryRun) -> tuple[int, ...]:
        """Return the figures that its dry run has to give; the counter's share comes last."""
        stored = sum(call.output_elements for call in run.layers) * 4
        forward, backward = (self.macs * counted for counted in self.counted)
        return (
            *(self.macs, self.forward, self.input_gradient),
            *(self.weight_gradient, self.bias_gradient),
            *(0 if self.is_view else stored, 2 * forward, 4 * backward),
        )


NONE = (False, False)  # the dispatcher's counter has no formula, forward and backward


class Called(nn.Module):
    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(x)


def run_of(worked: Worked) -> DryRun:
    network = worked.call if isinstance(worked.call, nn.Module) else Called(worked.call)
    return dry_run(network, (torch.zeros(worked.shape, requires_grad=True),))


def figures_of(run: DryRun) -> tuple[int | None, ...]:
    """Return the textbook's figures of all layers together, by today's formulas."""
    theory = account(run, 4)
    layers = theory.costs.layers
    found = [_sum(getattr(layer, field) for layer in layers) for field in _FIELDS]
    for predict in (counter_forward_prediction, counter_backward_prediction):
        predictions = [predict(theory, layer) for layer in theory.layers]
        found.append(_sum(p.theory for p in predictions if p.counted))
    return tuple(found)


_FIELDS = (
    *("macs", "forward_flops", "input_gradient_flops", "weight_gradient_flops"),
    *("bias_gradient_flops", "output_bytes"),
)


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(value or 0 for value in found)


def per_element(
    call: Callable[[Tensor], Any], forward: int, backward: int, is_view: bool = False
) -> Worked:
    """Return a row with a fixed number of FLOPs for each of 2 × 3 × 4 × 5 elements."""
    return Worked(call, (2, 3, 4, 5), 0, forward * 120, backward * 120, is_view=is_view)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


NEEDS_ONE = ("ReLU", "Sigmoid", "Tanh", "CELU", "SELU", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "ReLU6", "RReLU", "Softsign", "LogSigmoid", "Tanhshrink", "GELU", "LeakyReLU", "ELU", "Hardtanh", "Softplus", "Dropout", "AlphaDropout", "Dropout2d", "FeatureAlphaDropout")  # fmt: skip
UNARY = ("abs", "square", "exp", "sqrt", "rsqrt", "reciprocal", "neg", "sin", "erf")

INDEX = torch.zeros(2, 3, 4, 5, dtype=torch.long)
MOVES: dict[str, Callable[[Tensor], Any]] = {
    "pad": lambda x: F.pad(x, (1, 1)),
    "reflection pad": nn.ReflectionPad2d(1),
    "index_select": lambda x: x.index_select(1, torch.tensor([0, 2])),
    "gather": lambda x: x.gather(0, INDEX),
    "scatter": lambda x: torch.zeros(2, 3, 4, 5).scatter(0, INDEX, x),
    "topk": lambda x: x.topk(2)[0],
    "sort": lambda x: x.sort(1)[0],
    "unfold": lambda x: F.unfold(x, 2),
    "nearest interpolation": lambda x: F.interpolate(x, scale_factor=2),
    "nearest-exact interpolation": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "max_unpool": lambda x: F.max_unpool2d(x, INDEX, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "repeat": lambda x: x.repeat(2, 1, 1, 1),
    "tile": lambda x: x.tile(2, 1, 1, 1),
    "roll": lambda x: x.roll(1, 1),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "flip": lambda x: x.flip(1),
    "stack": lambda x: torch.stack([x, x]),
    "arange": lambda x: (torch.arange(5.0), x.clone()),
    "linspace": lambda x: (torch.linspace(0, 1, 5), x.clone()),
    "eye": lambda x: (torch.eye(3), x.clone()),
    "full": lambda x: (torch.full((3,), 1.0), x.clone()),
    "tensor": lambda x: (torch.tensor([1.0]), x.clone()),
    "new_full": lambda x: (x.new_full((3,), 1.0), x.clone()),
    "like": lambda x: (torch.rand_like(x), torch.full_like(x, 2), torch.empty_like(x), torch.zeros_like(x), torch.ones_like(x), torch.randn_like(x), x.clone()),
    **{
        name: lambda x, name=name: (getattr(torch, name)(3), x.clone())
        for name in ("empty", "zeros", "ones", "rand", "randn")
    },
    **{
        f"new_{name}": lambda x, name=name: (getattr(x, f"new_{name}")(3), x.clone())
        for name in ("empty", "zeros", "ones")
    },
    **{name: lambda x, name=name: getattr(torch, name)(x) for name in ("clone", "fliplr", "flipud")},
    **{
        name: lambda x, name=name: getattr(torch, name)([x, x])
        for name in ("cat", "hstack", "vstack", "dstack", "column_stack")
    },
}  # fmt: skip
VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "flatten, a module": nn.Flatten(),
    "identity": nn.Identity(),
    "reshape that copies": lambda x: x.permute(3, 2, 1, 0).reshape(-1),
    "unflatten": lambda x: x.unflatten(3, (5, 1)),
    "view": lambda x: x.view(6, 20),
    "view_as": lambda x: x.view_as(x),
    "reshape": lambda x: x.reshape(6, 20),
    "reshape_as": lambda x: x.reshape_as(x),
    "permute": lambda x: x.permute(3, 2, 1, 0),
    "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "expand": lambda x: x[None].expand(3, 2, 3, 4, 5),
    "expand_as": lambda x: x.expand_as(x),
    "broadcast_to": lambda x: x.broadcast_to(3, 2, 3, 4, 5),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x)[0],
    "to": lambda x: x.to(torch.float32),
    "type": lambda x: x.type(torch.float32),
    "type_as": lambda x: x.type_as(x),
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "chunk": lambda x: x.chunk(2)[0],
    "split": lambda x: x.split(1)[0],
    "split_with_sizes": lambda x: x.split_with_sizes([1, 1])[0],
    "unbind": lambda x: x.unbind()[0],
    "tensor_split": lambda x: x.tensor_split(2)[0],
    "hsplit": lambda x: x.hsplit(3)[0],
    "vsplit": lambda x: x.vsplit(2)[0],
    "dsplit": lambda x: x.dsplit(2)[0],
    "narrow": lambda x: x.narrow(1, 0, 2),
    "select": lambda x: x.select(1, 0),
    "a slice": lambda x: x[:, 1:],
    "t": lambda x: x[0, 0].t(),
    "a list of indices, as every index": lambda x: x[:, [0, 2]],
    **{name: lambda x, name=name: getattr(x, name)(1, 2) for name in ("flatten", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")},
    **{name: lambda x, name=name: getattr(x, name) for name in ("mT", "mH", "data")},
    **{f"{name} of a matrix": lambda x, name=name: getattr(x[0, 0], name) for name in ("T", "H")},
    **{name: lambda x, name=name: getattr(x, name)() for name in ("detach", "contiguous", "float", "cpu", "ravel", "positive", "adjoint")},
    **{name: lambda x, name=name: getattr(torch, name)(x) for name in ("atleast_1d", "atleast_2d", "atleast_3d")},
}  # fmt: skip

WORKED: dict[str, Worked] = {
    # 2 per MAC, forward and for each gradient; bias sums apart
    "conv1d": Worked(nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9), 504, 1_008, 1_008, 1_008, 84),
    "conv2d": Worked(nn.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 6), 6_480, 12_960, 12_960, 12_960, 240),
    "conv2d, strided, dilated": Worked(nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0), 2, 2, bias=False), (1, 2, 9, 7), 480, 960, 960, 960),
    "conv2d of one image": Worked(nn.Conv2d(3, 4, 3), (3, 5, 5), 972, 1_944, 1_944, 1_944, 36),
    "conv3d": Worked(nn.Conv3d(2, 3, (1, 2, 3)), (2, 2, 4, 5, 6), 4_608, 9_216, 9_216, 9_216, 384),
    "conv_transpose1d": Worked(nn.ConvTranspose1d(4, 6, 3), (2, 4, 5), 720, 1_440, 1_440, 1_440, 84),
    "conv_transpose2d": Worked(nn.ConvTranspose2d(2, 4, 3, 2, 1, groups=2), (2, 2, 3, 5), 1_080, 2_160, 2_160, 2_160, 360),
    "conv_transpose3d": Worked(nn.ConvTranspose3d(2, 3, 2), (1, 2, 2, 3, 4), 1_152, 2_304, 2_304, 2_304, 180),
    "linear": Worked(nn.Linear(3, 5), (7, 2, 3), 210, 420, 420, 420, 70),
    "linear of a vector": Worked(nn.Linear(3, 5, bias=False), (3,), 15, 30, 30, 30),
    # A product's two factors are both inputs
    "matmul": Worked(lambda x: x @ ones(2, 4, 5), (2, 3, 4), 120, 240, 480),
    "matmul that broadcasts": Worked(lambda x: x @ ones(6, 1, 4, 5), (2, 3, 4), 720, 1_440, 2_880),
    "matmul of vectors": Worked(lambda x: x @ ones(4), (4,), 4, 8, 16, counted=NONE),
    "mm": Worked(lambda x: torch.mm(x, ones(4, 5)), (3, 4), 60, 120, 240),
    "bmm": Worked(lambda x: torch.bmm(x, ones(2, 4, 5)), (2, 3, 4), 120, 240, 480),
    "mv": Worked(lambda x: torch.mv(x, ones(4)), (3, 4), 12, 24, 48, counted=NONE),
    "dot": Worked(lambda x: torch.dot(x, ones(4)), (4,), 4, 8, 16, counted=NONE),
    "vdot": Worked(lambda x: torch.vdot(x, ones(4)), (4,), 4, 8, 16, counted=NONE),
    "addmm": Worked(lambda x: torch.addmm(ones(5), x, ones(4, 5)), (3, 4), 60, 120, 240),
    "addmv": Worked(lambda x: torch.addmv(ones(3), x, ones(4)), (3, 4), 12, 24, 48, counted=NONE),
    "baddbmm": Worked(lambda x: torch.baddbmm(ones(2, 3, 5), x, ones(2, 4, 5)), (2, 3, 4), 120, 240, 480),
    "addbmm": Worked(lambda x: torch.addbmm(ones(3, 5), x, ones(2, 4, 5)), (2, 3, 4), 120, 240, 480, counted=(False, True)),
    "einsum": Worked(lambda x: torch.einsum("bij,bjk->bik", x, ones(2, 4, 5)), (2, 3, 4), 120, 240, 480),
    "einsum of three": Worked(lambda x: torch.einsum("ij,jk,kl->il", x, ones(4, 5), ones(5, 6)), (3, 4), 360, 720, 1_440, counted=NONE),
    "einsum with dots": Worked(lambda x: torch.einsum("...j,jk->...k", x, ones(4, 5)), (2, 3, 4), 120, 240, 480),
    # 2 heads, 3 queries, 5 keys of 4, values of 6: 30 scores; softmax 3 and 4 of each
    "attention": Worked(lambda x: F.scaled_dot_product_attention(x, ones(1, 2, 5, 4), ones(1, 2, 5, 6)), (1, 2, 3, 4), 300, 690, 1_320),
    # 5 per element, backward too
    "batch_norm": per_element(nn.BatchNorm2d(3), 5, 5),
    "batch_norm in eval mode": per_element(nn.BatchNorm2d(3).eval(), 5, 5),
    "instance_norm": per_element(nn.InstanceNorm2d(3), 5, 5),
    "layer_norm": per_element(nn.LayerNorm(5), 5, 5),
    "group_norm": per_element(nn.GroupNorm(3, 3), 5, 5),
    "rms_norm": per_element(nn.RMSNorm(5), 5, 5),
    "local_response_norm": per_element(nn.LocalResponseNorm(2), 5, 5),
    # 1 per element
    **{name.lower(): per_element(getattr(nn, name)(), 1, 1) for name in NEEDS_ONE},
    **{name: per_element(getattr(torch, name), 1, 1) for name in UNARY},
    "relu6, a function": per_element(F.relu6, 1, 1),
    "prelu": per_element(lambda x: F.prelu(x, ones(1)), 1, 1),
    "glu": Worked(nn.GLU(1), (2, 4, 3), 0, 12, 24),
    "clamp": per_element(lambda x: x.clamp(0, 1), 1, 1),
    "maximum": per_element(lambda x: torch.maximum(x, ones(2, 3, 4, 5)), 1, 1),
    "minimum": per_element(lambda x: torch.minimum(x, ones(2, 3, 4, 5)), 1, 1),
    "stochastic_depth": per_element(torchvision.ops.StochasticDepth(0.5, "row"), 1, 1),
    "atan2, which has no family": per_element(lambda x: torch.atan2(x, ones(2, 3, 4, 5)), 1, 1),
    "where": per_element(lambda x: torch.where(ones(2, 3, 4, 5) > 0, x, x), 1, 2),
    # An addition's gradient is the output's; a product's goes to both factors
    "add": per_element(lambda x: x + 1, 1, 0),
    "add, the first operand smaller": Worked(lambda x: x + ones(2, 3, 4, 5), (3, 1, 5), 0, 120, 0),
    "sub": per_element(lambda x: x - ones(2, 3, 4, 5), 1, 0),
    "mul": per_element(lambda x: x * 2, 1, 2),
    "mul, the first operand smaller": Worked(lambda x: x * ones(2, 3, 4, 5), (3, 1, 5), 0, 120, 240),
    "div": per_element(lambda x: x / 2, 1, 2),
    # Pools
    "max_pool1d": Worked(nn.MaxPool1d(2), (2, 3, 8), 0, 48, 48),
    "max_pool2d": Worked(nn.MaxPool2d(3, 2), (2, 3, 7, 7), 0, 486, 294),
    "max_pool2d, oblong": Worked(nn.MaxPool2d((2, 1), (2, 1)), (2, 3, 6, 5), 0, 180, 180),
    "max_pool3d": Worked(nn.MaxPool3d(2), (1, 2, 4, 4, 4), 0, 128, 128),
    "avg_pool1d": Worked(nn.AvgPool1d(2), (2, 3, 8), 0, 48, 48),
    "avg_pool2d": Worked(nn.AvgPool2d(2), (2, 3, 6, 6), 0, 216, 216),
    "avg_pool3d": Worked(nn.AvgPool3d(2), (1, 2, 4, 4, 4), 0, 128, 128),
    "adaptive_avg_pool1d": Worked(nn.AdaptiveAvgPool1d(2), (2, 3, 8), 0, 48, 48),
    "adaptive_avg_pool2d": Worked(nn.AdaptiveAvgPool2d(1), (2, 3, 6, 6), 0, 216, 216),
    "adaptive_avg_pool3d": Worked(nn.AdaptiveAvgPool3d(1), (1, 2, 4, 4, 4), 0, 128, 128),
    "adaptive_max_pool1d": Worked(nn.AdaptiveMaxPool1d(2), (2, 3, 8), 0, 48, 48),
    "adaptive_max_pool2d": Worked(nn.AdaptiveMaxPool2d(2), (2, 3, 6, 6), 0, 216, 216),
    "adaptive_max_pool3d": Worked(nn.AdaptiveMaxPool3d(2), (1, 2, 4, 4, 4), 0, 128, 128),
    "lp_pool1d": Worked(nn.LPPool1d(2, 2), (2, 3, 8), 0, 96, 96),
    "lp_pool2d": Worked(nn.LPPool2d(2, 2), (2, 3, 6, 6), 0, 432, 432),
    "lp_pool3d": Worked(nn.LPPool3d(2, 2), (1, 2, 4, 4, 4), 0, 256, 256),
    # Softmax 3 and 4; cross entropy 3 per score and 1 per row, backward 2
    "softmax": per_element(nn.Softmax(1), 3, 4),
    "log_softmax": per_element(nn.LogSoftmax(1), 3, 4),
    "softmin": per_element(nn.Softmin(1), 3, 4),
    "cross_entropy": Worked(lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.long)), (4, 10), 0, 124, 80),
    "cross_entropy of an image": Worked(lambda x: F.cross_entropy(x, torch.zeros(2, 5, dtype=torch.long)), (2, 10, 5), 0, 310, 200),
    # Reductions: 1 per input element, backward 1 except for a sum
    "mean": per_element(lambda x: x.mean(1), 1, 1),
    "sum": per_element(lambda x: x.sum(1), 1, 0),
    "nansum": per_element(lambda x: x.nansum(1), 1, 0),
    **{name: per_element(lambda x, name=name: getattr(x, name)(1), 1, 1) for name in ("amax", "amin", "cumsum", "cumprod", "logcumsumexp", "prod", "max", "min", "cummax", "cummin", "median", "nanmedian", "mode")},
    "aminmax": per_element(lambda x: x.aminmax(dim=1), 1, 1),
    "logsumexp": per_element(lambda x: x.logsumexp(1), 2, 1),
    "norm of a vector": per_element(lambda x: torch.linalg.vector_norm(x, dim=1), 2, 1),
    "var": per_element(lambda x: x.var(1), 4, 1),
    "std": per_element(lambda x: x.std(1), 4, 1),
    "var_mean": per_element(lambda x: torch.var_mean(x, 1), 4, 1),
    "std_mean": per_element(lambda x: torch.std_mean(x, 1), 4, 1),
    **{name: per_element(lambda x, name=name: getattr(x, name)(1), 1, 0) for name in ("argmax", "argmin")},
    "count_nonzero": per_element(lambda x: x.count_nonzero(1), 1, 0),
    "any": per_element(lambda x: x.any(1), 1, 0),
    "all": per_element(lambda x: x.all(1), 1, 0),
    # 2 for each neighbour of an output
    "linear interpolation": Worked(lambda x: F.interpolate(x, size=6, mode="linear"), (2, 3, 4), 0, 144, 144),
    "bilinear interpolation": Worked(lambda x: F.interpolate(x, size=(4, 5), mode="bilinear"), (1, 2, 3, 3), 0, 320, 320),
    "anti-aliased": Worked(lambda x: F.interpolate(x, size=(4, 5), mode="bilinear", antialias=True), (1, 2, 3, 3), 0, 320, 320),
    "trilinear interpolation": Worked(lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), (1, 2, 2, 2, 2), 0, 2_048, 2_048),
    "bicubic interpolation": Worked(lambda x: F.interpolate(x, size=(4, 5), mode="bicubic"), (1, 2, 3, 3), 0, 1_280, 1_280),
    "anti-aliased bicubic": Worked(lambda x: F.interpolate(x, size=(4, 5), mode="bicubic", antialias=True), (1, 2, 3, 3), 0, 1_280, 1_280),
    "grid_sample": Worked(lambda x: F.grid_sample(x, torch.zeros(1, 4, 5, 2), align_corners=False), (1, 2, 3, 3), 0, 320, 320),
    "nearest grid_sample": Worked(lambda x: F.grid_sample(x, torch.zeros(1, 4, 5, 2), "nearest", align_corners=False), (1, 2, 3, 3), 0, 80, 80),
    "grid_sample of a volume": Worked(lambda x: F.grid_sample(x, torch.zeros(1, 2, 2, 3, 3), align_corners=False), (1, 2, 2, 2, 2), 0, 384, 384),
    "fractional_max_pool2d": Worked(lambda x: F.fractional_max_pool2d(x, 2, output_size=3), (2, 3, 7, 7), 0, 216, 294),
    "fractional_max_pool3d": Worked(lambda x: F.fractional_max_pool3d(x, 2, output_size=2), (1, 2, 4, 4, 4), 0, 128, 128),
    # Losses: a fixed number for each pair of numbers
    **{
        name: per_element(lambda x, name=name: getattr(F, name)(x, ones(2, 3, 4, 5)), forward, backward)
        for name, (forward, backward) in {
            "l1_loss": (3, 1),
            "mse_loss": (3, 2),
            "smooth_l1_loss": (4, 2),
            "huber_loss": (4, 2),
            "soft_margin_loss": (4, 3),
            "kl_div": (3, 1),
            "poisson_nll_loss": (4, 2),
            "hinge_embedding_loss": (3, 1),
            "binary_cross_entropy": (5, 4),
            "binary_cross_entropy_with_logits": (6, 3),
        }.items()
    },
    "gaussian_nll_loss": per_element(lambda x: F.gaussian_nll_loss(x, ones(2, 3, 4, 5), ones(2, 3, 4, 5)), 6, 4),
    "margin_ranking_loss": per_element(lambda x: F.margin_ranking_loss(x, ones(2, 3, 4, 5), ones(2, 3, 4, 5)), 4, 2),
    "multi_margin_loss": Worked(lambda x: F.multi_margin_loss(x, torch.zeros(4, dtype=torch.long)), (4, 10), 0, 120, 40),
    "native_dropout": per_element(lambda x: torch.ops.aten.native_dropout(x, 0.5, True)[0], 1, 1),
    "nll_loss": Worked(lambda x: F.nll_loss(x, torch.zeros(4, dtype=torch.long)), (4, 10), 0, 4, 4),
    "multilabel_margin_loss": Worked(lambda x: F.multilabel_margin_loss(x, torch.zeros(4, 10, dtype=torch.long)), (4, 10), 0, 120, 40),
    "cosine_embedding_loss": Worked(lambda x: F.cosine_embedding_loss(x, ones(4, 10), ones(4)), (4, 10), 0, 280, 240),
    # 2 steps of 3 rows, 4 to 5: four gates, and 9 per unit and step
    "lstm": Worked(nn.LSTM(4, 5), (2, 3, 4), 1_080, 2_430, 2_430, 2_160, counted=NONE),
    # 5 N log2 N; half of it for real numbers
    "fft": Worked(lambda x: torch.fft.fft(torch.complex(x, x)), (2, 3, 8), 0, 720, 720),
    "rfft": Worked(torch.fft.rfft, (2, 3, 8), 0, 360, 360),
    "irfft": Worked(lambda x: torch.fft.irfft(torch.complex(x, x), n=8), (2, 3, 5), 0, 360, 360),
    "bilinear": Worked(lambda x: F.bilinear(x, ones(2, 4), ones(5, 3, 4)), (2, 3), 160, 320, 640, 320, counted=NONE),
    "cdist": Worked(lambda x: torch.cdist(x, ones(5, 4)), (3, 4), 0, 180, 180),
    "affine_grid": Worked(lambda x: F.affine_grid(x, [2, 1, 4, 5], align_corners=False), (2, 2, 3), 0, 480, 480),
    "weight_norm": Worked(lambda x: torch._weight_norm(x, ones(4, 1), 0), (4, 3), 0, 36, 36),
    "embedding_bag": Worked(lambda x: F.embedding_bag(torch.zeros(2, 3, dtype=torch.long), x), (5, 6), 0, 36, 36),
    "fold": Worked(lambda x: F.fold(x, (4, 4), 2), (1, 4, 9), 0, 36, 0),
    "index_add": Worked(lambda x: torch.zeros(4, 3).index_add(0, torch.tensor([0, 1]), x), (2, 3), 0, 6, 0),
    "scatter_add": Worked(lambda x: torch.zeros(4, 3).scatter_add(0, torch.zeros(2, 3, dtype=torch.long), x), (2, 3), 0, 6, 0),
    # Moving data computes nothing
    **{name: per_element(call, 0, 0) for name, call in MOVES.items()},
    **{name: per_element(call, 0, 0, is_view=True) for name, call in VIEWS.items()},
    **{f"nearest{suffix}, {dims} dimensions": Worked(lambda x, suffix=suffix: F.interpolate(x, scale_factor=2, mode=f"nearest{suffix}"), (2, 3, *[2] * dims), 0, 0, 0) for dims in (1, 3) for suffix in ("", "-exact")},
    "pixel_unshuffle": Worked(lambda x: F.pixel_unshuffle(x, 2), (1, 2, 4, 4), 0, 0, 0),
    "view_as_complex and back": Worked(lambda x: torch.view_as_real(torch.view_as_complex(x)), (3, 2), 0, 0, 0, is_view=True),
    "real and imag": Worked(lambda x: (torch.view_as_complex(x).real, torch.view_as_complex(x).imag), (3, 2), 0, 0, 0, is_view=True),
}  # fmt: skip
