"""What a variant of a network costs: by theory, and measured where that is little enough work."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from layerscope.explain.analysis.variants import with_memory
from layerscope.layers import NetworkSpec, Shape, describe
from layerscope.measure import ActivationRecord, FlopCounts, MemoryRecord, Step
from layerscope.measure.counted_step import activations_and_flops
from layerscope.measure.memory import memory_timeline
from layerscope.reconcile.account import Account, account, total
from layerscope.reconcile.flops import (
    counter_backward_reasons,
    counter_forward_reasons,
    has_macs,
)
from layerscope.reconcile.memory import output_bytes_reasons, saved_bytes_reasons
from layerscope.reconcile.peak import live_peak_bytes
from layerscope.theory import Total
from layerscope.theory.step import StepMemory, step_memory

# A variant beyond either is not run.
MOST_PEAK_BYTES = 2**30
MOST_STEP_FLOPS = 5 * 10**10


@dataclass(frozen=True)
class Totals:
    """Of one network and one step; None is not known.

    Args:
        forward_flops: of convolutions and linear layers, 2 per MAC.
        backward_flops: of their gradients, as far as they are computed.
        output_bytes: that layers newly put out.
        saved_bytes: that autograd holds when the forward pass ends.
        peak_bytes: above parameters, buffers and input, without what an operation takes and gives
            back within itself.
    """

    num_parameters: int | None = None
    parameter_bytes: int | None = None
    forward_flops: int | None = None
    backward_flops: int | None = None
    output_bytes: int | None = None
    saved_bytes: int | None = None
    peak_bytes: int | None = None


NOT_MEASURED = Totals()


class VariantRun:
    """One network on one input shape, counted at once, and run when it is asked for.

    Args:
        network: as `variants` makes them, without memory.

    Raises:
        UserError: it does not run.
    """

    def __init__(self, network: nn.Module, input_shape: Shape, device: torch.device) -> None:
        self.network = with_memory(network, device)
        self.input_shape = input_shape
        floating = (p.dtype for p in network.parameters() if p.is_floating_point())
        self.dtype = next(floating, torch.float32)
        spec = describe(self.network, input_shape, self.dtype)
        self.account: Account = account(spec, self.dtype.itemsize)
        self.paper: StepMemory = step_memory(spec, self.account.saved)

    @property
    def spec(self) -> NetworkSpec:
        """Every call."""
        return self.account.network

    @cached_property
    def textbook(self) -> Total:
        """Its totals as the walkthrough counts them."""
        return self.account.costs.total()

    @cached_property
    def predicted(self) -> Totals:
        """What the instruments should find."""
        spec, saved = self.spec, self.account.saved
        whole = not (spec.num_unseen or saved.unknown)
        return Totals(
            num_parameters=self.textbook.num_parameters + spec.unused_parameters,
            parameter_bytes=parameter_bytes(spec),
            forward_flops=self._total("forward_flops"),
            backward_flops=self._total("backward_flops"),
            output_bytes=self._total("output_bytes"),
            saved_bytes=self._total("saved_bytes"),
            peak_bytes=self.paper.live_peak_bytes if whole else None,
        )

    def _total(self, quantity: str) -> int | None:
        """Of the network's rows, as reconcile/ explains them."""
        account_ = self.account
        spec, saved = account_.network, account_.saved
        size = account_.element_size
        instruments = {
            "forward_flops": (
                "flop_counter",
                lambda call: counter_forward_reasons(spec.layers[call]),
            ),
            "backward_flops": (
                "flop_counter",
                lambda call: counter_backward_reasons(spec, saved, call),
            ),
            "output_bytes": ("outputs", lambda call: output_bytes_reasons(spec, call, size)),
            "saved_bytes": ("saved", lambda call: saved_bytes_reasons(spec, saved, call, size)),
        }
        instrument, reasons = instruments[quantity]
        rows = account_.rows(quantity, instrument, {}, reasons)
        if quantity in ("forward_flops", "backward_flops"):  # the instrument counts no others
            rows = tuple(row for row in rows if row.layer in self._multiplying)
        if not rows:
            return None if spec.num_unseen else 0
        row = total(rows, spec.num_unseen)
        return None if row.lower_bound else row.predicted

    @cached_property
    def _multiplying(self) -> frozenset[str]:
        """The convolutions and linear layers."""
        return frozenset(spec.key for spec in self.spec.layers if has_macs(spec))

    @cached_property
    def _unknown_products(self) -> frozenset[str]:
        """Layers of kinds that may multiply, and of which nothing is known."""
        return frozenset(cost.layer for cost in self.account.costs.layers if cost.macs is None)

    def _counted_flops(self, by_layer: Mapping[str, int]) -> int:
        """Of what a prediction speaks of."""
        return sum(n for layer, n in by_layer.items() if layer not in self._unknown_products)

    @cached_property
    def too_large(self) -> str | None:
        """Why it is not run; None where it is."""
        peak = self.paper.peak.peak_bytes + parameter_bytes(self.spec)
        flops = self.textbook.forward_flops + self.textbook.backward_flops
        if peak > MOST_PEAK_BYTES:
            return f"a step would take {peak:,} B at its peak, more than {MOST_PEAK_BYTES:,}"
        if flops > MOST_STEP_FLOPS:
            return f"a step would take {flops:,} FLOPs, more than {MOST_STEP_FLOPS:,}"
        return None

    @cached_property
    def step(self) -> Step:
        """On an input of zeros, with weights of zeros: no count and no size depends on values."""
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            tensor.detach().zero_()
        return Step(
            self.network, torch.zeros(self.input_shape, dtype=self.dtype, device=self.spec.device)
        )

    @cached_property
    def counted(self) -> tuple[ActivationRecord, FlopCounts] | None:
        """One step under the recorder of activations and the counter of FLOPs."""
        return None if self.too_large else activations_and_flops(self.step)

    @cached_property
    def timeline(self) -> MemoryRecord | None:
        """One step under the profiler."""
        if self.too_large:
            return None
        with _no_collection():
            return memory_timeline(self.step)

    @cached_property
    def measured(self) -> Totals:
        """What the instruments found."""
        if self.counted is None or self.timeline is None:
            return NOT_MEASURED
        activations, flops = self.counted
        parameters = tuple(self.network.parameters())
        return Totals(
            num_parameters=sum(parameter.numel() for parameter in parameters),
            parameter_bytes=sum(parameter.nbytes for parameter in parameters),
            forward_flops=self._counted_flops(flops.forward),
            backward_flops=self._counted_flops(flops.backward),
            output_bytes=activations.output_bytes,
            saved_bytes=activations.saved_bytes,
            peak_bytes=live_peak_bytes(self.timeline),
        )

    def forward_flops_below(self, path: str) -> tuple[int, int | None]:
        """Of the convolutions and linear layers at or below this path: predicted, measured."""
        predicted = sum(
            cost.forward_flops or 0
            for cost in self.account.costs.layers
            if cost.macs and is_below(cost.layer, path)
        )
        if self.counted is None:
            return predicted, None
        forward = self.counted[1].forward
        return predicted, sum(flops for key, flops in forward.items() if is_below(key, path))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage of before: torch writes a warning where that is released under the profiler."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def parameter_bytes(spec: NetworkSpec) -> int:
    """Of all parameters, those that no layer uses too."""
    return sum(layer.parameter_bytes for layer in spec.layers) + spec.unused_parameter_bytes


def is_below(key: str, path: str) -> bool:
    """Whether a layer is the module of this path, or inside of it."""
    return key == path or key.startswith(f"{path}.")
