"""Convolutions in one to three dimensions, transposed or not."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from layerscope.explain import notation
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.factors import grid
from layerscope.explain.families.windows import (
    WindowSettings,
    readers_sentence,
    spatial_dims,
    spatial_shape,
    transposed_table,
    window_letters,
    window_table,
    windows_of,
)
from layerscope.explain.linear_maps import (
    Along,
    Axis,
    Letters,
    ListedRows,
    Part,
    batch_letters,
    first_place,
    linear_explainer,
    linear_formulas,
)
from layerscope.explain.notation import sized, spaced, summed
from layerscope.explain.operation import Operation
from layerscope.explain.values import Position


@dataclass(frozen=True)
class _ChannelGroups:
    """Channels that see each other only."""

    count: int
    in_channels: int
    out_channels: int

    @property
    def inputs(self) -> int:
        return self.in_channels // self.count

    @property
    def outputs(self) -> int:
        return self.out_channels // self.count

    def axes(self, channel: int, *, transposed: bool) -> tuple[Axis, ...]:
        """Return those of the channels; `channel` is the dimension of x and y."""
        if self.count == 1:
            o, c = (1, 0) if transposed else (0, 1)
            of_input = Along(self.in_channels, {"x": channel, "w": c})
            of_output = Along(self.out_channels, {"y": channel, "w": o})
            return (of_input, of_output) if transposed else (of_output, of_input)
        g, o, c = grid(*map(np.arange, (self.count, self.outputs, self.inputs))).T
        made, read = (g * self.outputs + o)[:, None], (g * self.inputs + c)[:, None]
        weight = np.concatenate([read, o[:, None]] if transposed else [made, c[:, None]], axis=1)
        dims = {"y": (channel,), "x": (channel,), "w": (0, 1)}
        return (ListedRows(dims, {"y": made, "x": read, "w": weight}),)


def _groups(operation: Operation, *, transposed: bool) -> _ChannelGroups:
    count, (first, second, *_) = operation.get("groups", 1), operation.shapes["w"]
    return _ChannelGroups(
        count, *((first, second * count) if transposed else (second * count, first))
    )


def _windows(operation: Operation) -> WindowSettings:
    return windows_of(operation, operation.shapes["w"][2:], spatial_dims(operation))


def _spatial(operation: Operation, *, transposed: bool) -> tuple[ListedRows, ...]:
    windows, dims = _windows(operation), spatial_dims(operation)
    made, read = (spatial_shape(s, dims) for s in (operation.output_shape, operation.shapes["x"]))
    if transposed:
        made, read = read, made
    found = []
    for dim in range(dims):
        coordinates = windows.coordinates(dim, read[dim], made[dim])
        place = len(operation.output_shape) - dims + dim
        table = window_table(
            coordinates,
            np.ones(coordinates.shape, dtype=bool),
            read[dim],
            {"y": place, "x": place, "w": 2 + dim},
        )
        found.append(transposed_table(table) if transposed else table)
    return tuple(found)


def _parts(operation: Operation, *, transposed: bool) -> tuple[Part, ...]:
    shape, channel = operation.output_shape, _channel_dim(operation)
    groups = _groups(operation, transposed=transposed)
    batch = tuple(Along(shape[dim], {"y": dim, "x": dim}) for dim in range(channel))
    spatial = _spatial(operation, transposed=transposed)
    products = Part(("x", "w"), (*batch, *groups.axes(channel, transposed=transposed), *spatial))
    if "b" not in operation.shapes:
        return (products,)
    along = {dim: {"y": dim} for dim in range(len(shape))}
    along[channel]["b"] = 0
    return products, Part(("b",), tuple(Along(shape[dim], along[dim]) for dim in along))


def _channel_dim(operation: Operation) -> int:
    return len(operation.output_shape) - spatial_dims(operation) - 1


def _first_transposed(operation: Operation, symbol: str, position: Position) -> Position:
    """Return the kernel's first cell of a weight, whether or not an input meets it there."""
    place = first_place(_parts(operation, transposed=True), operation, symbol, position)
    return (*place[:2], *(0,) * len(place[2:])) if symbol == "w" else place


def _formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    windows, groups = _windows(operation), _groups(operation, transposed=False)
    dims = windows.letters()
    batch = notation.leading(operation.output_shape, len(dims) + 1)
    channels, of_output, of_input = _channel_letters(groups)
    padding = _padding_sentence(windows)
    in_group = "channel_within_the_group" if of_output else "input_channel"
    legend = notation.index_legend(
        image=batch,
        output_channel="o",
        **{in_group: "" if groups.inputs == groups.outputs == 1 < groups.count else "c"},
        output_position=notation.outputs(dims),
        kernel_position=tuple(dim.cell for dim in dims),
    )
    only = "Only outputs that read this input count, each with the weight it reads it by"
    where = {
        "y": spaced(windows.numbers, of_output, padding, legend),
        "dL/dx": spaced(
            of_input,
            readers_sentence(dims, only),
            notation.index_legend(input_position=notation.coordinates(dims)),
        ),
        "dL/dw": spaced(of_output, padding),
    }
    axes = (*batch_letters(batch), channels, *map(window_letters, dims))
    return linear_formulas(axes, "xw", where, has_bias="b" in operation.shapes)


def _letters(
    sums: dict[str, str], y: dict[str, str], x: dict[str, str], w: dict[str, tuple[str, str]]
) -> Letters:
    """Return the channels': by what is given, the indices of y, x and w; else those of `y`."""

    def index(given: str) -> dict[str, tuple[str, ...]]:
        made, read = y.get(given, y["y"]), x.get(given, x["y"])
        return {"y": (made,), "x": (read,), "w": w.get(given, w["y"]), "b": ("o",)}

    return Letters(sums, index)


def _channel_letters(groups: _ChannelGroups) -> tuple[Letters, str, str]:
    """Return the channels' indices, and what they mean in terms of the output and the input."""
    over_inputs, over_outputs = summed("c", sized("C", "in")), summed("o", sized("C", "out"))
    if groups.count == 1:
        sums = {"y": over_inputs, "x": over_outputs}
        return _letters(sums, {"y": "o"}, {"y": "c"}, {"y": ("o", "c")}), "", ""
    if groups.inputs == groups.outputs == 1:
        each = (
            "Each channel is a group of its own: output channel $o$ reads input channel $o$ only."
        )
        own = _letters({}, {"y": "o", "x": "c"}, {"y": "o", "x": "c"}, _DEPTHWISE)
        return own, each, ""
    sums = {"y": summed("c", "C_g"), "x": r"\sum_{o = g O_g}^{(g+1) O_g - 1}"}
    weight = {"y": ("o", "c"), "x": ("o", "c - g C_g")}
    channels = _letters(sums, {"y": "o"}, {"y": "g C_g + c", "x": "c"}, weight)
    return channels, *_group_sentences(groups)


_DEPTHWISE = {"y": ("o", "0"), "x": ("c", "0")}


def _group_sentences(groups: _ChannelGroups) -> tuple[str, str]:
    return (
        f"$G = {groups.count}$ groups of $C_g = {groups.inputs}$ input channels and "
        f"$O_g = {groups.outputs}$ output channels: $g = \\left\\lfloor o / O_g \\right\\rfloor$.",
        r"$g = \left\lfloor c / C_g \right\rfloor$ is the group of the channel.",
    )


def _padding_sentence(windows: WindowSettings) -> str:
    """Say what stands beyond the input; nothing without padding."""
    if windows.mode != "zeros":
        return f"$R$ is the index of the input that stands there in the padding: {windows.mode}."
    if not any(windows.padding_after):
        return ""
    zeros = "Where an index lies outside the input, in the padding, $x$ is 0."
    if windows.padding == windows.padding_after:
        return zeros
    return (
        f"{zeros} Behind the input the padding is {windows.padding_after}, in front "
        f"{windows.padding}."
    )


def _transposed_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    windows, groups = _windows(operation), _groups(operation, transposed=True)
    dims = windows.letters(transposed=True)
    batch = notation.leading(operation.output_shape, len(dims) + 1)
    if groups.count == 1:
        sums = {"y": summed("c", sized("C", "in")), "x": summed("o", sized("C", "out"))}
        channels = _letters(sums, {"y": "o"}, {"y": "c"}, {"y": ("c", "o")})
        of_output = of_input = ""
    else:
        sums = {"y": r"\sum_{c = g C_g}^{(g+1) C_g - 1}", "x": summed("o", "O_g")}
        made, weight = "g O_g + o", ("c", "o")
        channels = _letters(
            sums,
            {"y": "o", "x": made, "w": made},
            {"y": "c"},
            {"y": ("c", "o - g O_g"), "x": weight, "w": weight},
        )
        of_output, of_input = _group_sentences(groups)
    cropped = "Where an index lies outside the output, which the padding crops, there is no term."
    legend = notation.index_legend(
        image=batch,
        output_channel="o",
        input_channel="c",
        output_position=notation.coordinates(dims),
        input_position=notation.outputs(dims),
        kernel_position=tuple(dim.cell for dim in dims),
    )
    readers = readers_sentence(dims, "Only inputs whose window holds this output count")
    where = {
        "y": spaced(windows.numbers, of_output, readers, legend),
        "dL/dx": spaced(of_input, cropped),
        "dL/dw": spaced(of_input, cropped),
    }
    letters = partial(window_letters, transposed=True)
    axes = (*batch_letters(batch), channels, *map(letters, dims))
    return linear_formulas(axes, "xw", where, has_bias="b" in operation.shapes)


CONVOLUTION = replace(
    linear_explainer(partial(_parts, transposed=False), _formulas), bias_dim=_channel_dim
)
TRANSPOSED_CONVOLUTION = replace(
    linear_explainer(partial(_parts, transposed=True), _transposed_formulas),
    first=_first_transposed,
    bias_dim=_channel_dim,
)
