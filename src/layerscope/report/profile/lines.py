"""What each layer costs, saves and takes, a line a layer; read at any depth of the module tree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from layerscope.dry_run import Shape
from layerscope.reconcile.comparisons import saved_by_dry_run
from layerscope.reconcile.profile import LayerTiming, Profile
from layerscope.report.document import Sum
from layerscope.theory.table import LayerCost


@dataclass(frozen=True)
class LayerLine:
    """One layer, or all layers below one module, summed.

    Args:
        name: key of the layer, or path of the module.
        layers: keys of the layers in it.
        type: torch's word for the layer; empty for several.
        num_calls: of one layer; 0 for several.
        output_shapes: of one layer; empty for several.
        saved_bytes: as measured where it was, else as the dry run saw it.
        forward_flops, backward_flops: the textbook's; None where nothing is known.
        seconds: forward and backward, medians; None where they were not measured.
    """

    name: str
    layers: tuple[str, ...]
    type: str
    num_calls: int
    output_shapes: tuple[Shape, ...]
    num_parameters: int
    output_elements: int
    output_bytes: int
    saved_bytes: int
    forward_flops: Sum | None
    backward_flops: Sum | None
    seconds: float | None

    @property
    def flops(self) -> Sum | None:
        """Forward and backward."""
        return added([self.forward_flops, self.backward_flops])


def layer_lines(profile: Profile, depth: int | None = None) -> tuple[LayerLine, ...]:
    """Return a line per layer, or per module at this depth, in the order of the first calls."""
    lines = _layers(profile)
    if depth is None:
        return lines
    groups: dict[str, list[LayerLine]] = {}
    for line in lines:
        groups.setdefault(ancestor(line.name, depth), []).append(line)
    return tuple(folded(name, members) for name, members in groups.items())


def ancestor(layer: str, depth: int) -> str:
    """Return the path above a layer that has `depth` parts; the layer where it has no more."""
    return ".".join(layer.split(".")[: max(depth, 1)])


def folded(name: str, lines: Sequence[LayerLine]) -> LayerLine:
    """Return the sum of lines under one name; a single line stays what it is."""
    if len(lines) == 1:
        return lines[0]
    seconds = [line.seconds for line in lines if line.seconds is not None]
    return LayerLine(
        name=name,
        layers=tuple(layer for line in lines for layer in line.layers),
        type="",
        num_calls=0,
        output_shapes=(),
        num_parameters=sum(line.num_parameters for line in lines),
        output_elements=sum(line.output_elements for line in lines),
        output_bytes=sum(line.output_bytes for line in lines),
        saved_bytes=sum(line.saved_bytes for line in lines),
        forward_flops=added(line.forward_flops for line in lines),
        backward_flops=added(line.backward_flops for line in lines),
        seconds=sum(seconds) if seconds else None,
    )


def tree_depth(profile: Profile) -> int:
    """Return the number of parts of the deepest layer's key: at this depth every layer is seen."""
    return max((cost.layer.count(".") + 1 for cost in profile.costs.layers), default=1)


def fitting_depth(profile: Profile, most: int) -> int:
    """Return the largest depth at which there are at most `most` lines; at least 1."""
    layers = [cost.layer for cost in profile.costs.layers]
    depths = range(tree_depth(profile), 1, -1)
    fits = (depth for depth in depths if len({ancestor(key, depth) for key in layers}) <= most)
    return next(fits, 1)


def layer_seconds(timing: LayerTiming) -> float:
    """Return the medians of forward and backward, added."""
    return timing.forward.median + (timing.backward.median if timing.backward else 0.0)


def saved_by_layer(profile: Profile) -> Mapping[str, int]:
    """Return what autograd saves of each layer: as measured, else as the dry run saw it."""
    measured = [row for row in profile.rows if row.instrument == "saved"]
    if measured:
        return {row.layer: int(row.measured or 0) for row in measured}
    return saved_by_dry_run(profile.account)


def added(sums: Iterable[Sum | None]) -> Sum | None:
    """Return the sum of what is known, a lower bound where something is not; None where all is."""
    found = list(sums)
    known = [each for each in found if each is not None]
    if found and not known:
        return None
    lower_bound = len(known) < len(found) or any(each.lower_bound for each in known)
    value = sum(each.value for each in known)
    return None if lower_bound and not value else Sum(value, lower_bound)


def _layers(profile: Profile) -> tuple[LayerLine, ...]:
    saved = saved_by_layer(profile)
    seconds = {timing.layer: layer_seconds(timing) for timing in profile.times or ()}
    return (
        *(_line(cost, saved, seconds) for cost in profile.costs.layers),
        *(
            _between(layer, saved)
            for layer in profile.account.types
            if layer not in profile.account.layers and saved.get(layer)
        ),
    )


def _line(cost: LayerCost, saved: Mapping[str, int], seconds: Mapping[str, float]) -> LayerLine:
    return LayerLine(
        name=cost.layer,
        layers=(cost.layer,),
        type=cost.type,
        num_calls=cost.num_calls,
        output_shapes=cost.output_shapes,
        num_parameters=cost.num_parameters,
        output_elements=cost.output_elements,
        output_bytes=cost.output_bytes,
        saved_bytes=saved.get(cost.layer, 0),
        forward_flops=None if cost.forward_flops is None else Sum(cost.forward_flops),
        backward_flops=None if cost.backward_flops is None else Sum(cost.backward_flops),
        seconds=seconds.get(cost.layer),
    )


def _between(layer: str, saved: Mapping[str, int]) -> LayerLine:
    """Return the line of a module that allocates what is saved between its layers."""
    nothing = Sum(0)
    return LayerLine(layer, (layer,), "", 1, (), 0, 0, 0, saved[layer], nothing, nothing, None)
