"""The network as a drawing: its layers from top to bottom, with the size of what each returns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.base.formatting import shapes_tuple
from layerscope.dry_run import Shape
from layerscope.networks.layer_calls import DescribedCall, calls_by_layer
from layerscope.operations.words import group_of
from layerscope.report.explain.layers import settings_short
from layerscope.report.html import resource
from layerscope.report.svg import chart, clipped, element, label
from layerscope.theory.table import CostTable, LayerCost

WIDTH = 360
_ROW, _HEAD, _GAP, _PAD = 40, 22, 16, 8
_MOST_ROWS = 48  # of a larger network only the blocks are drawn
_PICTURE = 62  # of a feature map, at the left
_LEFT, _RIGHT = 12 + _PICTURE + 8, WIDTH - 14
_NAME, _WORD, _SMALL = 8.6, 7.9, 7.2  # width of a letter: bold, plain, small


@dataclass(frozen=True)
class _DrawnLayer:
    """One line of the drawing."""

    name: str
    group: str
    settings: str
    shape: Shape
    num_parameters: int
    changes_shape: bool


@dataclass(frozen=True)
class _DrawnGroup:
    """Rows in one box; without a name, a layer that stands for itself."""

    name: str
    rows: tuple[_DrawnLayer, ...]

    @property
    def height(self) -> float:
        return len(self.rows) * _ROW + (_HEAD if self.name else 0) + _PAD


def overview_drawing(costs: CostTable, layers: Sequence[DescribedCall], name: str) -> str:
    """Return SVG that stands in a page with overview.css."""
    groups = _groups(costs, layers)
    largest = _Largest.of([row.shape for group in groups for row in group.rows])
    parts = [element("rect", width=WIDTH, height=_height(groups), rx=8, class_="paper")]
    y = float(_PAD)
    for number, group in enumerate(groups):
        if number:
            parts.append(_arrow(y - _GAP))
        parts.append(_drawn(group, y, largest))
        y += group.height + _GAP
    title = f"{clipped(name, 60)}: its layers in the order in which they run"
    described = "; ".join(
        f"{row.name}: {shapes_tuple([row.shape])}" for group in groups for row in group.rows
    )
    return chart(WIDTH, round(_height(groups)), title, described, *parts, kind="overview")


def standalone_drawing(drawing: str) -> str:
    """Return it as a file of its own, with its style."""
    style = element("style", overview_style())
    opening, rest = drawing.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def overview_style() -> str:
    """Return the drawing's CSS."""
    return resource("overview.css")


def _height(groups: Sequence[_DrawnGroup]) -> float:
    return sum(group.height + _GAP for group in groups) - _GAP + 2 * _PAD


def _groups(costs: CostTable, layers: Sequence[DescribedCall]) -> tuple[_DrawnGroup, ...]:
    specs = {key: calls[0] for key, calls in calls_by_layer(layers).items()}
    image = _DrawnLayer("input", "input", "the batch", costs.input_shape, 0, True)
    blocks = {block.name: members for block, members in costs.blocks()}
    groups = [_DrawnGroup("", (image,))]
    seen: set[str] = set()
    for cost in costs.layers:
        block = cost.layer.partition(".")[0]
        if block not in blocks:
            groups.append(_DrawnGroup("", (_row(cost, specs[cost.layer], cost.layer),)))
        elif block not in seen:
            seen.add(block)
            members = blocks[block]
            if len(costs.layers) > _MOST_ROWS:
                groups.append(_DrawnGroup("", (_block_row(block, members),)))
                continue
            rows = (_row(c, specs[c.layer], c.layer.partition(".")[2]) for c in members)
            groups.append(_DrawnGroup(block, tuple(rows)))
    return tuple(groups)


def _row(cost: LayerCost, spec: DescribedCall, name: str) -> _DrawnLayer:
    shape = cost.output_shapes[0] if cost.output_shapes else ()
    changes = not cost.input_shapes or shape != cost.input_shapes[0]
    group = group_of(spec.kind)
    return _DrawnLayer(name, group, settings_short(spec), shape, cost.num_parameters, changes)


def _block_row(name: str, members: Sequence[LayerCost]) -> _DrawnLayer:
    shape = members[-1].output_shapes[0] if members[-1].output_shapes else ()
    num_parameters = sum(cost.num_parameters for cost in members)
    return _DrawnLayer(name, "weights", f"{len(members)} layers", shape, num_parameters, True)


def _drawn(group: _DrawnGroup, y: float, largest: "_Largest") -> str:
    parts = [element("rect", x=4, y=y, width=WIDTH - 8, height=group.height, rx=6, class_="box")]
    top = y + _PAD / 2
    if group.name:
        parts.append(label(12, top + 15, clipped(group.name, 40), class_="block-name"))
        top += _HEAD
    for row in group.rows:
        parts.append(_drawn_row(row, top, largest))
        top += _ROW
    return "".join(parts)


def _drawn_row(row: _DrawnLayer, y: float, largest: "_Largest") -> str:
    left, right = _LEFT, _RIGHT
    small = {"class_": "small"}
    shape = " × ".join(map(str, row.shape[1:]))
    parameters = f"{row.num_parameters:,} parameters" if row.num_parameters else ""
    return "".join(
        (
            element("rect", x=4, y=y + 2, width=3, height=_ROW - 4, class_=row.group),
            _picture(row, y, largest) if row.changes_shape else "",
            label(left, y + 17, clipped(row.name, _room(shape, _NAME, _WORD)), class_="name"),
            label(left, y + 33, _cut(row.settings, _room(parameters, _SMALL, _SMALL)), **small),
            label(right, y + 17, shape, text_anchor="end"),
            label(right, y + 33, parameters, text_anchor="end", class_="small")
            if parameters
            else "",
        )
    )


def _room(beside: str, letter: float, letter_beside: float) -> int:
    """Return how many letters fit on a line on which something stands at the right."""
    return max(3, int((_RIGHT - _LEFT - 8 - letter_beside * len(beside)) / letter))


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else f"{words[: length - 1]}…"


@dataclass(frozen=True)
class _Largest:
    """Sizes to which the pictures are drawn in proportion, on a logarithmic scale."""

    side: int
    channels: int

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> "_Largest":
        sides = [max(shape[2:]) for shape in shapes if len(shape) > 2]
        channels = [shape[1] for shape in shapes if len(shape) > 1]
        return cls(max(sides, default=1), max(channels, default=1))


def _picture(row: _DrawnLayer, y: float, largest: _Largest) -> str:
    """A feature map as a solid: its height for H, its thickness for C."""
    if len(row.shape) < 2:
        return ""
    side = max(row.shape[2:], default=1)
    height = 4 + 22 * _part(side, largest.side)
    thick = 3 + 33 * _part(row.shape[1], largest.channels)
    slant = height / 3
    x, top = 14 + (_PICTURE - thick - slant) / 2, y + (_ROW - height + slant) / 2
    up = f"{x:.1f},{top:.1f}", f"{x + slant:.1f},{top - slant:.1f}"
    far = f"{x + thick + slant:.1f},{top - slant:.1f}", f"{x + thick:.1f},{top:.1f}"
    low = (
        f"{x + thick + slant:.1f},{top + height - slant:.1f}",
        f"{x + thick:.1f},{top + height:.1f}",
    )
    return "".join(
        (
            element("rect", x=x, y=top, width=thick, height=height, class_=f"front {row.group}"),
            element("polygon", points=" ".join((*up, *far)), class_=f"top {row.group}"),
            element("polygon", points=" ".join((far[1], far[0], *low)), class_=f"side {row.group}"),
        )
    )


def _part(size: int, largest: int) -> float:
    return math.log2(1 + size) / math.log2(1 + largest)


def _arrow(y: float) -> str:
    middle = 12 + _PICTURE / 2
    end = y + _GAP - 3
    return element(
        "path",
        d=f"M{middle} {y + 2}V{end}M{middle - 4} {end - 5}L{middle} {end}L{middle + 4} {end - 5}",
        class_="arrow",
    )
