"""The speed of a layer, and the speed that this machine would have allowed."""

from dataclasses import dataclass

from layerscope.dry_run import DryRun, LayerCall
from layerscope.measure import MachineCeilings, Spread, TimeRecord
from layerscope.theory import CostTable


@dataclass(frozen=True)
class LayerTiming:
    """The seconds of one layer, all its calls summed, and rates of its forward pass.

    Args:
        flops_per_second: the textbook's FLOPs, divided by the median time.
        bytes_moved: bytes of inputs and parameters, read once, and of outputs, written once.
        intensity: FLOPs per byte moved.
        ridge: the intensity above which arithmetic, not memory, limits the layer.
        ceiling_flops_per_second: rate that the roofline allows at this intensity.
        roofline_fraction: achieved rate, divided by the allowed one.
    """

    layer: str
    forward: Spread
    backward: Spread | None
    bytes_moved: int
    flops_per_second: float | None
    bytes_per_second: float | None
    intensity: float | None
    ridge: float | None
    ceiling_flops_per_second: float | None
    roofline_fraction: float | None

    @property
    def is_above_roofline(self) -> bool:
        """Tell whether the layer was faster than the roofline allows."""
        return self.roofline_fraction is not None and self.roofline_fraction > 1


# A roofline ignores caches and the convolution algorithms of Winograd and Fourier.
WHY_ABOVE = "its data came from a cache, or its algorithm needs fewer operations"


def layer_timings(
    run: DryRun,
    costs: CostTable,
    times: TimeRecord,
    machine: MachineCeilings | None,
    by_cudnn: frozenset[str] = frozenset(),
) -> tuple[LayerTiming, ...]:
    """Return the timing of each layer, in execution order.

    Args:
        by_cudnn: layers that compute in the precision of convolutions.
    """
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
            None if machine is None else _ceilings(machine, layer in by_cudnn),
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


def _ceilings(machine: MachineCeilings, by_cudnn: bool) -> tuple[float, float]:
    """Return the ceilings in FLOP/s and bytes/s."""
    products = machine.convolution_flops_per_second if by_cudnn else machine.matmul_flops_per_second
    return products.median, machine.copy_bytes_per_second.median


def _timing(
    layer: str,
    forward: Spread,
    backward: Spread | None,
    num_bytes: int,
    flops: int | None,
    ceilings: tuple[float, float] | None,
) -> LayerTiming:
    seconds = forward.median
    rate = flops / seconds if flops is not None and seconds > 0 else None
    intensity = flops / num_bytes if flops is not None and num_bytes else None
    ridge = ceiling = None
    if ceilings is not None:
        arithmetic, copies = ceilings
        ridge = arithmetic / copies
        ceiling = min(arithmetic, intensity * copies) if intensity else None
    return LayerTiming(
        layer=layer,
        forward=forward,
        backward=backward,
        bytes_moved=num_bytes,
        flops_per_second=rate,
        bytes_per_second=num_bytes / seconds if seconds > 0 else None,
        intensity=intensity,
        ridge=ridge,
        ceiling_flops_per_second=ceiling,
        roofline_fraction=rate / ceiling if rate is not None and ceiling else None,
    )
