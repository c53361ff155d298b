"""Where sizes stop growing with the image, and what of the size formula does it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from layerscope.dry_run import Shape
from layerscope.networks.layer_calls import DescribedCall, calls_by_layer
from layerscope.whatif.variant_runs import VariantRun
from layerscope.whatif.words import code, joined


def where_it_begins(base: VariantRun, run: VariantRun) -> str:
    """The layers that get twice the sizes, and do not put out twice the sizes."""
    own, its = calls_by_layer(base.spec.layers), calls_by_layer(run.spec.layers)
    begins, fixed = [], []
    for layer in own.keys() & its.keys():
        sizes = _Sizes.of(own[layer][0], its[layer][0])
        if sizes is None:
            continue
        if own[layer][0].kind.startswith("adaptive_") and sizes.out_before == sizes.out_after:
            fixed.append(
                (layer, f"{code(layer)} puts out {joined_sizes(sizes.out_before)} for both")
            )
        elif sizes.leaves_proportion:
            begins.append((layer, f"{code(layer)}, {sizes.shown}{_cause(own[layer][0], sizes)}"))
    order = list(own)
    begins, fixed = (
        [text for _, text in sorted(found, key=lambda item: order.index(item[0]))]
        for found in (begins, fixed)
    )
    text = f" The sizes leave the proportion first in {'; '.join(begins[:3])}." if begins else ""
    return text + (f" {joined(fixed[:3])}." if fixed else "")


@dataclass(frozen=True)
class _Sizes:
    """Spatial sizes of one layer's input and output at both resolutions."""

    in_before: Shape
    in_after: Shape
    out_before: Shape
    out_after: Shape

    @classmethod
    def of(cls, own: DescribedCall, its: DescribedCall) -> "_Sizes | None":
        """None where it has no maps."""
        if not own.inputs or not its.inputs:
            return None
        shapes = (own.input_shape, its.input_shape, own.output_shape, its.output_shape)
        if {len(shape) for shape in shapes} - {3, 4, 5} or len(set(map(len, shapes))) > 1:
            return None
        return cls(*(shape[2:] for shape in shapes))

    @property
    def leaves_proportion(self) -> bool:
        """Tell whether what comes in is twice as large, and what goes out is not."""
        return self.in_after == _doubled(self.in_before) and self.out_after != _doubled(
            self.out_before
        )

    @property
    def shown(self) -> str:
        """Both ways through the layer."""
        return (
            f"{joined_sizes(self.in_before)} → {joined_sizes(self.out_before)} but "
            f"{joined_sizes(self.in_after)} → {joined_sizes(self.out_after)}"
        )


def _doubled(sizes: Shape) -> Shape:
    return tuple(2 * size for size in sizes)


def joined_sizes(sizes: Iterable[int]) -> str:
    """`32×32`."""
    return "×".join(map(str, sizes))


def _cause(spec: DescribedCall, sizes: _Sizes) -> str:
    """What of (size + 2 · padding - dilation · (k - 1) - 1) / stride + 1 is not in proportion."""
    settings = _window(spec, len(sizes.in_before))
    if settings is None:
        return ""
    border = rounded = False
    for at, (kernel, stride, padding, dilation) in enumerate(settings):
        extra = 2 * padding - dilation * (kernel - 1) - 1 + stride
        before, after = (
            size + extra - stride * out  # what the division leaves over
            for size, out in (
                (sizes.in_before[at], sizes.out_before[at]),
                (sizes.in_after[at], sizes.out_after[at]),
            )
        )
        border |= extra != 0
        rounded |= after != 2 * before
    reasons = []
    if border:
        reasons.append("2 · padding is not dilation · (k − 1) + 1 − stride")
    if rounded:
        reasons.append("the division by the stride is rounded")
    return f" ({joined(reasons)})" if reasons else ""


def _window(spec: DescribedCall, dims: int) -> list[tuple[int, int, int, int]] | None:
    """Per dimension kernel, stride, padding, dilation; None where it has no such window."""
    if spec.kind not in ("conv1d", "conv2d", "conv3d", "max_pool", "avg_pool"):
        return None
    geometry: Mapping[str, Any] = spec.geometry
    kernel = geometry["kernel_size"]
    values = (kernel, geometry.get("stride") or kernel, geometry.get("padding", 0))
    columns = [
        (value,) * dims if isinstance(value, int) else value
        for value in (*values, geometry.get("dilation", 1))
    ]
    if any(isinstance(column, str) or len(column) != dims for column in columns):
        return None
    return list(zip(*columns, strict=True))
