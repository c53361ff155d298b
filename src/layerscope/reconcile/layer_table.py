"""What each layer of a network computes of one image, counted by theory and by fvcore."""

from dataclasses import dataclass

from torch import nn

from layerscope.layers import preserve_state
from layerscope.measure import FvcoreCounts, FvcoreFailed, Step, fvcore_counts
from layerscope.networks.layer_calls import blank_image, network_calls
from layerscope.theory import LayerCost, Total, cost_table, sum_if_known, textbook_units

NOT_RUN = "(not run in eval mode)"


@dataclass(frozen=True)
class LayerRow:
    """A layer; every count is for one image. None is unknown."""

    layer: str
    type: str
    output_shape: tuple[int, ...]  # without the batch
    num_calls: int
    num_parameters: int
    macs: int | None  # multiply-accumulates of convolutions, linear layers and matrix products
    fvcore_count: int | None  # fvcore's own: these, batch norm and average pooling


@dataclass(frozen=True)
class LayerTable:
    """All layers in order of their first call."""

    rows: tuple[LayerRow, ...]
    fvcore_mode: str | None
    fvcore_note: str | None  # why fvcore's counts are unknown
    textbook: Total  # of the layers that run in eval mode

    @property
    def num_parameters(self) -> int:
        """Sum over the layers, shared ones once."""
        return sum(row.num_parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Sum over the layers whose MACs are known."""
        return sum(row.macs or 0 for row in self.rows)

    @property
    def is_lower_bound(self) -> bool:
        """True where the MACs of a layer are unknown."""
        return any(row.macs is None for row in self.rows)

    @property
    def fvcore_count(self) -> int | None:
        """Sum of fvcore's counts; None where it could not count."""
        return sum_if_known(row.fvcore_count for row in self.rows)


def layer_table(network: nn.Module, input_shape: tuple[int, int, int]) -> LayerTable:
    """Describe one image (C, H, W) in eval mode: batch norm cannot train on a single value."""
    with preserve_state(network):
        network.eval()
        calls = network_calls(network, (1, *input_shape))
        counts, note = _fvcore(network, input_shape)
    costs = cost_table(calls.run, textbook_units(calls.run), element_size=4)
    rows = tuple(_row(cost, counts) for cost in costs.layers)
    present = sum(parameter.numel() for parameter in network.parameters())
    idle = present - sum(row.num_parameters for row in rows)
    if idle:  # of an auxiliary head, say: there, and trained, but no part of an evaluation
        rows += (LayerRow(NOT_RUN, "none", (), 0, idle, 0, None if counts is None else 0),)
    return LayerTable(rows, counts.mode if counts else None, note, costs.total())


def _row(cost: LayerCost, counts: FvcoreCounts | None) -> LayerRow:
    return LayerRow(
        layer=cost.layer,
        type=cost.type,
        output_shape=tuple(cost.output_shapes[0][1:]),
        num_calls=cost.num_calls,
        num_parameters=cost.num_parameters,
        macs=cost.macs,
        fvcore_count=None if counts is None else counts.layers.get(cost.layer, 0),
    )


def _fvcore(
    network: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[FvcoreCounts | None, str | None]:
    try:
        image = blank_image(network, (1, *input_shape))
        return fvcore_counts(Step(network, (image,))), None
    except FvcoreFailed as error:
        return None, f"fvcore could not count this network: {error}"
