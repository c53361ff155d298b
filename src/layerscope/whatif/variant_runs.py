"""What a variant of a network costs: by theory, and measured where that is little enough work."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from layerscope.dry_run import DryRun, LayerCall, Shape, dry_run
from layerscope.layers.garbage import no_garbage_collection
from layerscope.measure import ActivationRecord, FlopCounts, MemoryRecord, Step
from layerscope.measure.counted_step import activations_and_flops
from layerscope.measure.memory import memory_timeline
from layerscope.networks.layer_calls import NetworkCalls, blank_image, described_calls
from layerscope.operations import saved_role
from layerscope.reconcile.account import Account, account
from layerscope.reconcile.flops import (
    Prediction,
    counter_backward_prediction,
    counter_forward_prediction,
)
from layerscope.reconcile.memory import output_bytes_reasons
from layerscope.reconcile.peak import live_peak_bytes
from layerscope.theory import Total
from layerscope.whatif.variants import with_memory

# A variant beyond either is not run.
MOST_PEAK_BYTES = 2**30
MOST_STEP_FLOPS = 5 * 10**10


@dataclass(frozen=True)
class Totals:
    """Figures of one network and one step; None is not known.

    Args:
        forward_flops: of convolutions, linear layers and other matrix products, 2 per MAC.
        backward_flops: of their gradients, as far as they are computed.
        output_bytes: what layers newly put out.
        saved_bytes: what autograd holds when the forward pass ends.
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
        image = blank_image(self.network, input_shape)
        self.dtype = image.dtype
        run = dry_run(self.network, (image,))
        self.account: Account = account(run, self.dtype.itemsize)
        self.spec = NetworkCalls(run, described_calls(run, self.network))

    @property
    def run(self) -> DryRun:
        """One step without memory."""
        return self.account.run

    @cached_property
    def textbook(self) -> Total:
        """Its totals as the walkthrough counts them."""
        return self.account.costs.total()

    @cached_property
    def predicted(self) -> Totals:
        """What the instruments should find."""
        run, layers = self.run, self.account.types
        return Totals(
            num_parameters=run.num_parameters,
            parameter_bytes=run.parameter_bytes,
            forward_flops=_sum(counter_forward_prediction(self.account, key) for key in layers),
            backward_flops=_sum(counter_backward_prediction(self.account, key) for key in layers),
            output_bytes=self.textbook.output_bytes
            + sum(
                reason.amount
                for key in self.account.layers
                for reason in output_bytes_reasons(self.account, key)
            ),
            saved_bytes=run.saved_bytes,
            peak_bytes=run.live_peak_bytes if run.has_backward else None,
        )

    def textbook_of(self, call: LayerCall, quantity: str) -> int:
        """Return the textbook's count of one call; what is not known counts nothing."""
        units = self.account.units_by_call.get(call.number, ())
        return sum(unit.costs.counts[quantity] or 0 for unit in units)

    @cached_property
    def saved_pieces(self) -> dict[tuple[str, str], int]:
        """What autograd saves, in bytes: by what it is (`output`, `indices`) and its layer."""
        run = self.run
        outputs = {
            tensor.storage
            for call in run.layers
            for tensor in call.outputs
            if run.storages[tensor.storage].operation in call.operations
        }
        pieces: dict[tuple[str, str], int] = {}
        saved = {record.storage for record in run.saved}
        for storage in sorted(saved, key=lambda number: (number not in outputs, number)):
            layer = run.allocating_layer(storage)
            if layer is not None:
                what = "output" if storage in outputs else self._role(storage)
                piece = (what, layer)
                pieces[piece] = pieces.get(piece, 0) + run.storages[storage].num_bytes
        return pieces

    def _role(self, storage: int) -> str:
        run = self.run
        operation = run.operations[run.storages[storage].operation or 0]
        found = [tensor and tensor.storage for tensor in operation.results]
        function = None if operation.function is None else run.functions[operation.function].name
        result = found.index(storage) if storage in found else 0
        role = saved_role(operation.base_name, result, function)
        return "intermediate_result" if role is None else role.code

    @cached_property
    def too_large(self) -> str | None:
        """Why it is not run; None where it is."""
        peak = self.run.live_peak_bytes + self.run.parameter_bytes
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
        return Step(self.network, (blank_image(self.network, self.input_shape),))

    @cached_property
    def counted(self) -> tuple[ActivationRecord, FlopCounts] | None:
        """One step under the recorder of activations and the counter of FLOPs."""
        return None if self.too_large else activations_and_flops(self.step)

    @cached_property
    def timeline(self) -> MemoryRecord | None:
        """One step under the profiler."""
        if self.too_large:
            return None
        with no_garbage_collection():  # torch warns of garbage that the profiler sees freed
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
            forward_flops=sum(flops.forward.values()),
            backward_flops=sum(flops.backward.values()),
            output_bytes=activations.output_bytes,
            saved_bytes=activations.saved_bytes,
            peak_bytes=live_peak_bytes(self.timeline),
        )

    def forward_flops_below(self, path: str) -> tuple[int, int | None]:
        """Return the FLOPs of matrix products at or below this path: predicted, measured."""
        predicted = _sum(
            counter_forward_prediction(self.account, key)
            for key in self.account.types
            if is_below(key, path)
        )
        if self.counted is None:
            return predicted, None
        forward = self.counted[1].forward
        return predicted, sum(flops for key, flops in forward.items() if is_below(key, path))


def _sum(predictions: Iterable[Prediction]) -> int:
    """Return what is predicted of all that the counter counts, which is always known."""
    total = 0
    for prediction in predictions:
        if prediction.counted:
            total += (prediction.theory or 0) + sum(r.amount for r in prediction.reasons)
    return total


def is_below(key: str, path: str) -> bool:
    """Tell whether a layer is the module of this path, or inside of it."""
    return key == path or key.startswith(f"{path}.")
