"""One step of a network: run dry, and under the instruments where that is little enough work."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.dry_run import DryRun, LayerCall, Shape, dry_run
from layerscope.layers.garbage import no_garbage_collection
from layerscope.measure import Step
from layerscope.reconcile.account import Account, account
from layerscope.reconcile.comparisons import COMPARISONS
from layerscope.reconcile.measurements import Measurements, measure
from layerscope.reconcile.peak import live_peak_bytes
from layerscope.reconcile.settings import ProfileSettings
from layerscope.theory import CountedUnit, Total

# A step beyond either is not run.
MOST_PEAK_BYTES = 2**30
MOST_STEP_FLOPS = 5 * 10**10

_INSTRUMENTS = frozenset({"outputs", "saved", "flop_counter", "memory"})
_BY_LAYER = {c.quantity: c for c in COMPARISONS if c.instrument in _INSTRUMENTS}


@dataclass(frozen=True)
class VariantFigure:
    """One number, twice.

    Args:
        name: plain text; may hold names of layers.
        unit: `B`, `FLOPs`, `parameters`, `×`, `%`.
        predicted: by theory and the dry run; None is not known.
        measured: on this machine; None is not measured.
    """

    name: str
    unit: str
    predicted: float | None
    measured: float | None = None

    @property
    def difference(self) -> float:
        """What is measured beyond the prediction; 0 of a ratio, or where either is not known."""
        if self.unit in ("×", "%") or self.predicted is None or self.measured is None:
            return 0
        return self.measured - self.predicted

    def over(self, other: "VariantFigure") -> "VariantFigure":
        """Return how many times the other this is."""
        pairs = ((self.predicted, other.predicted), (self.measured, other.measured))
        name = f"{self.name}, against this network"
        return VariantFigure(name, "×", *(a / b if a is not None and b else None for a, b in pairs))


# What is told of every network, in the order of the table's columns.
QUANTITIES = {
    "num_parameters": ("parameters", "parameters"),
    "parameter_bytes": ("bytes of parameters", "B"),
    "step_flops": ("FLOPs of a step by the textbook", "FLOPs"),
    "forward_flops": ("forward FLOPs of convolutions and matrix products", "FLOPs"),
    "backward_flops": ("backward FLOPs of convolutions and matrix products", "FLOPs"),
    "output_bytes": ("bytes that layers put out", "B"),
    "saved_bytes": ("bytes saved for backward", "B"),
    "live_peak_bytes": ("peak of a step above parameters, buffers and input", "B"),
}


class Run:
    """One network on one input shape, run dry at once, and for real when it is asked for.

    Args:
        network: without memory, as `skeleton` makes them.

    Raises:
        UserError: it does not run.
    """

    def __init__(self, network: nn.Module, input_shape: Shape, device: torch.device) -> None:
        self.network = with_memory(network, device)
        self.input_shape = input_shape
        floating = (p.dtype for p in network.parameters() if p.is_floating_point())
        self.dtype = next(floating, torch.get_default_dtype())
        self.image = torch.empty(input_shape, dtype=self.dtype, device=device)
        run = dry_run(self.network, (self.image,))
        self.account: Account = account(run, self.dtype.itemsize)

    @property
    def dry(self) -> DryRun:
        """One step without memory."""
        return self.account.run

    @cached_property
    def textbook(self) -> Total:
        """Totals by the textbook, where every layer computes every gradient."""
        return self.account.costs.total()

    @cached_property
    def too_large(self) -> str | None:
        """Why it is not run; None where it is."""
        peak = self.dry.live_peak_bytes + self.dry.parameter_bytes
        flops = self.textbook.forward_flops + self.textbook.backward_flops
        if peak > MOST_PEAK_BYTES:
            return f"a step would take {peak:,} B at its peak, more than {MOST_PEAK_BYTES:,}"
        if flops > MOST_STEP_FLOPS:
            return f"a step would take {flops:,} FLOPs, more than {MOST_STEP_FLOPS:,}"
        return None

    @cached_property
    def step(self) -> Step:
        """The step that is measured, on zeros: no count and no size depends on values."""
        for tensor in (*self.network.parameters(), *self.network.buffers(), self.image):
            tensor.detach().zero_()
        return Step(self.network, (self.image,))

    @cached_property
    def measurements(self) -> Measurements | None:
        """What the instruments saw; None where it is too large."""
        if self.too_large:
            return None
        with no_garbage_collection():  # torch warns of garbage that the profiler sees freed
            return measure(self.step, ProfileSettings("variant", self.input_shape), _INSTRUMENTS)

    @cached_property
    def figures(self) -> Mapping[str, VariantFigure]:
        """All of QUANTITIES, predicted and measured."""
        return {
            quantity: VariantFigure(name, unit, self._predicted(quantity), self._measured(quantity))
            for quantity, (name, unit) in QUANTITIES.items()
        }

    def by_layer(self, quantity: str) -> Mapping[str, int]:
        """Return what is predicted of each layer, all reasons included."""
        predictions = {
            layer: _BY_LAYER[quantity].predict(self.account, layer) for layer in self.account.types
        }
        return {
            layer: (p.theory or 0) + sum(reason.amount for reason in p.reasons)
            for layer, p in predictions.items()
            if p.counted
        }

    def measured_by_layer(self, quantity: str) -> Mapping[str, int] | None:
        """Return what was measured of each layer; None where nothing was."""
        if self.measurements is None:
            return None
        return _BY_LAYER[quantity].measured(self.account, self.measurements)

    def reasons(self, quantity: str, code: str) -> Mapping[str, int]:
        """Return what a reason of reconcile/ amounts to in each layer that has it."""
        return {
            layer: reason.amount
            for layer in self.account.types
            for reason in _BY_LAYER[quantity].predict(self.account, layer).reasons
            if reason.code == code
        }

    def _predicted(self, quantity: str) -> int | None:
        dry, textbook = self.dry, self.textbook
        if quantity == "step_flops":
            known = textbook.forward_flops + textbook.backward_flops
            return None if textbook.lower_bound else known
        if quantity == "live_peak_bytes":
            return dry.live_peak_bytes if dry.has_backward else None
        if quantity in ("num_parameters", "parameter_bytes"):  # those of no layer too
            return getattr(dry, quantity)
        return sum(self.by_layer(quantity).values())

    def _measured(self, quantity: str) -> int | None:
        if self.measurements is None or quantity == "step_flops":
            return None
        if quantity == "live_peak_bytes":
            record = self.measurements.memory
            return None if record is None else live_peak_bytes(record)
        if quantity == "num_parameters":
            return sum(parameter.numel() for parameter in self.network.parameters())
        if quantity == "parameter_bytes":
            return sum(parameter.nbytes for parameter in self.network.parameters())
        found = self.measured_by_layer(quantity)
        return None if found is None else sum(found.values())


def skeleton(network: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy on the meta device, shared parameters shared.

    Args:
        dtype: of its floating-point parameters and buffers; their own if not given.

    Raises:
        UserError: the network cannot be copied.
    """
    return _copied(network, "meta", dtype)


def with_memory(variant: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy whose parameters and buffers have memory that nobody has touched yet.

    Raises:
        UserError: the network cannot be copied.
    """
    return _copied(variant, device, None)


def _copied(network: nn.Module, device: torch.device | str, dtype: torch.dtype | None) -> nn.Module:
    def fresh(tensor: torch.Tensor) -> torch.Tensor:
        to = dtype if tensor.is_floating_point() else None
        empty = torch.empty_like(tensor, device=device, dtype=to, requires_grad=False)
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty

    tensors = (*network.parameters(), *network.buffers())
    memo: dict[int, Any] = {id(tensor): fresh(tensor) for tensor in tensors}
    try:
        return copy.deepcopy(network, memo)
    except Exception as error:  # a user's module may forbid it in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{type(network).__name__} cannot be copied: {reason}") from error


def is_below(key: str, path: str) -> bool:
    """Tell whether a layer is the module of this path, or inside of it."""
    return key == path or key.startswith(f"{path}.")


@dataclass(frozen=True)
class Weighted:
    """A call of a layer that multiplies its input by a weight of its own.

    Args:
        unit: the function, with the weight among its arguments.
    """

    call: LayerCall
    unit: CountedUnit

    @property
    def macs(self) -> int:
        """Products of the call."""
        return self.unit.costs.counts["macs"] or 0

    @property
    def weight_shape(self) -> Shape:
        """Sizes of the weight: outputs, inputs per group, the window."""
        return self.unit.invocation.arguments["weight"].shape

    @property
    def uses(self) -> int:
        """How often each element of the weight is used: once for each image and position."""
        return self.macs // prod(self.weight_shape)

    @property
    def is_depthwise(self) -> bool:
        """True where each filter sees one channel of several."""
        return self.weight_shape[1] == 1 < (self.unit.invocation.arguments.get("groups") or 1)


def weighted_calls(known: Account) -> Iterator[Weighted]:
    """Yield the calls of layers with a weight, in order; the first unit of each."""
    calls = {call.number: call for call in known.run.layers}
    for unit in known.units:
        weight = unit.invocation.arguments.get("weight")
        if weight is None or len(weight.shape) < 2 or not unit.costs.counts["macs"]:
            continue
        if unit.call is not None and (call := calls.pop(unit.call, None)) is not None:
            yield Weighted(call, unit)


def weighted_layers(known: Account) -> dict[str, Weighted]:
    """Return the first of these calls of each layer."""
    first: dict[str, Weighted] = {}
    for each in weighted_calls(known):
        first.setdefault(each.call.key, each)
    return first


def classifiers(known: Account) -> frozenset[str]:
    """Return the layers with weights that are the last on the way to an output."""
    numbers = {each.call.number for each in weighted_calls(known)}
    found: set[str] = set()
    wanted = {tensor.storage for tensor in known.run.outputs}
    for call in reversed(known.run.layers):
        made = {tensor.storage for tensor in call.outputs}
        if not made & wanted:
            continue
        if not (call.in_place or call.returns_input):
            wanted -= made
        if call.number in numbers:
            found.add(call.key)
        else:
            wanted.update(tensor.storage for tensor in call.inputs)
    return frozenset(found)
