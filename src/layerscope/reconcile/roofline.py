"""How fast a layer ran, and how fast this machine could have run it."""

from dataclasses import dataclass

from layerscope.dry_run import DryRun, LayerCall
from layerscope.measure import MachineCeilings, Spread, TimeRecord
from layerscope.theory import CostTable


@dataclass(frozen=True)
class LayerTiming:
    """The time of one layer, all its calls summed; rates are those of the forward pass.

    Args:
        flops_per_second: the textbook's FLOPs by the median time.
        bytes_moved: inputs and parameters read once, outputs written once, nothing cached.
        intensity: FLOPs per byte moved.
        ceiling_flops_per_second: what the roofline allows at this intensity.
        roofline_fraction: achieved by allowed; above 1 where the data came from a cache.
    """

    layer: str
    forward: Spread
    backward: Spread | None
    bytes_moved: int
    flops_per_second: float | None
    bytes_per_second: float | None
    intensity: float | None
    ceiling_flops_per_second: float | None
    roofline_fraction: float | None


def layer_timings(
    run: DryRun, costs: CostTable, times: TimeRecord, machine: MachineCeilings | None
) -> tuple[LayerTiming, ...]:
    """In execution order."""
    moved: dict[str, int] = {}
    for call in run.layers:
        moved[call.key] = moved.get(call.key, 0) + bytes_moved(call)
    flops = {cost.layer: cost.forward_flops for cost in costs.layers}
    return tuple(
        _timing(
            layer,
            time.forward,
            time.backward,
            moved.get(layer, 0),
            flops.get(layer),
            machine,
        )
        for layer, time in times.layers.items()
    )


def bytes_moved(call: LayerCall) -> int:
    """Return the least that one call must read and write; 0 for a view."""
    if call.returns_input:
        return 0
    return sum(
        tensor.num_bytes for tensor in (*call.inputs, *call.parameters.values(), *call.outputs)
    )


def _timing(
    layer: str,
    forward: Spread,
    backward: Spread | None,
    num_bytes: int,
    flops: int | None,
    machine: MachineCeilings | None,
) -> LayerTiming:
    seconds = forward.median
    rate = flops / seconds if flops is not None and seconds > 0 else None
    intensity = flops / num_bytes if flops is not None and num_bytes else None
    ceiling = None
    if machine is not None and intensity:
        ceiling = min(
            machine.matmul_flops_per_second.median,
            intensity * machine.copy_bytes_per_second.median,
        )
    return LayerTiming(
        layer=layer,
        forward=forward,
        backward=backward,
        bytes_moved=num_bytes,
        flops_per_second=rate,
        bytes_per_second=num_bytes / seconds if seconds > 0 else None,
        intensity=intensity,
        ceiling_flops_per_second=ceiling,
        roofline_fraction=rate / ceiling if rate is not None and ceiling else None,
    )
