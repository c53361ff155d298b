"""What each layer of a network computes, and with which settings.

The dry run knows a layer by torch's own words: its class, the functions that ran inside. This
module adds one word for what it computes, the same for a module and for the function that it
calls (nn.MaxPool2d and F.max_pool2d are both `max_pool`), and the settings of that computation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.dry_run import DryRun, FunctionRecord, LayerCall, TensorRecord, dry_run
from layerscope.dry_run.records import tensor_records
from layerscope.layers.calls import unwrapped, wrapped_function
from layerscope.operations import Family, bound_arguments, family_of_function, parameter_names
from layerscope.operations.family import per_dimension

# Arguments that tell the mode of a module, which changes what it computes.
_MODES = ("training", "use_input_stats")
_SIZES = ("kernel_size", "stride", "padding", "output_padding", "dilation")

# nn.ReLU6 calls hardtanh; alpha dropout of whole channels is no dropout as the others are.
_OWN_WORD = {"ReLU6": "relu6", "feature_alpha_dropout": "feature_alpha_dropout"}


@dataclass(frozen=True)
class DescribedCall(LayerCall):
    """One call of one layer, with what it computes.

    Args:
        kind: `conv2d`, `batch_norm`, `add`, ...; the layer's type where no one word says it.
        family: of functions that compute this; None where none is known.
        geometry: the settings of its kind: `kernel_size`, `stride`, `groups`, ...
        functions: of torch that lead from what it reads to what it returns, in order; those that
            only make a weight are none of them.
        numbers: which of the functions that ran inside these are, from 0.
    """

    kind: str = ""
    family: Family | None = None
    functions: tuple[FunctionRecord, ...] = ()
    numbers: tuple[int, ...] = ()
    geometry: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class NetworkCalls:
    """One forward pass.

    Args:
        layers: one per call, in execution order.
    """

    run: DryRun
    layers: tuple[DescribedCall, ...]

    @property
    def inputs(self) -> tuple[TensorRecord, ...]:
        """What the network was called with."""
        return self.run.inputs

    @property
    def outputs(self) -> tuple[TensorRecord, ...]:
        """What it returned, in order."""
        return self.run.outputs


def network_calls(
    network: nn.Module, image: Tensor | Sequence[int], dtype: torch.dtype | None = None
) -> NetworkCalls:
    """Return every call of a layer in one forward pass, in the network's present mode.

    Args:
        image: what the network is called with, or its shape with the batch.
        dtype: of an image that is given by its shape; default: the network's own.

    Raises:
        UserError: the network is compiled or scripted, refuses this image, or runs no layer on it.
    """
    network = unwrapped(network)
    if not isinstance(image, Tensor):
        image = blank_image(network, image, dtype)
    run = dry_run(network, (image,), backward=False)
    name = type(network).__name__
    if not run.outputs:
        raise UserError(f"{name} returns no tensor: there is nothing to account for")
    if not run.layers:
        raise UserError(f"{name} runs no layer on this input: there is nothing to account for")
    return NetworkCalls(run, described_calls(run, network))


def blank_image(
    network: nn.Module, shape: Sequence[int], dtype: torch.dtype | None = None
) -> Tensor:
    """Return zeros of this shape, on the device and in the dtype of the network's parameters."""
    floating = (parameter for parameter in network.parameters() if parameter.is_floating_point())
    first = next(floating, None)
    if first is None:
        return torch.zeros(tuple(shape), dtype=dtype)
    return torch.zeros(tuple(shape), dtype=dtype or first.dtype, device=first.device)


def described_calls(run: DryRun, network: nn.Module) -> tuple[DescribedCall, ...]:
    """Return the dry run's layers with what each computes.

    Args:
        network: that the run was of.
    """
    functions: dict[int, list[FunctionRecord]] = {}
    for function in run.functions:
        if function.call is not None:
            functions.setdefault(function.call, []).append(function)
    modules = dict(network.named_modules())
    return tuple(
        _described(call, modules[call.path], functions.get(call.number, [])) for call in run.layers
    )


def calls_by_layer(layers: Iterable[DescribedCall]) -> dict[str, tuple[DescribedCall, ...]]:
    """Return the calls of each layer under its key, in the order of the layers' first calls."""
    found: dict[str, list[DescribedCall]] = {}
    for call in layers:
        found.setdefault(call.key, []).append(call)
    return {key: tuple(calls) for key, calls in found.items()}


def _described(
    call: LayerCall, module: nn.Module, functions: Sequence[FunctionRecord]
) -> DescribedCall:
    function = _main_function(call, module, functions)
    family = _family(call, function)
    if call.function_name is None or (
        family is not None and wrapped_function(module) == call.function_name
    ):
        geometry = _module_geometry(family, module, function, call.training)
    else:
        geometry = {} if function is None else _function_geometry(family, function)
    own = {each.name: getattr(call, each.name) for each in fields(LayerCall)}
    numbers = tuple(_leading_numbers(call, functions))
    return DescribedCall(
        **own,
        kind=_kind(call, function, family),
        family=family,
        geometry=MappingProxyType(_expanded(family, geometry)),
        functions=tuple(functions[number] for number in numbers),
        numbers=numbers,
    )


def _leading_numbers(call: LayerCall, functions: Sequence[FunctionRecord]) -> Iterator[int]:
    reached = {tensor.storage for tensor in call.inputs}
    for number, function in enumerate(functions):
        read = tensor_records((function.args, function.kwargs))
        if reached.intersection(tensor.storage for tensor in read):
            reached.update(tensor.storage for tensor in function.outputs)
            yield number


def _main_function(
    call: LayerCall, module: nn.Module, functions: Sequence[FunctionRecord]
) -> FunctionRecord | None:
    """Return the one function that computes what the call returns; None where it takes several."""
    if call.function_name is not None:
        return next((f for f in functions if f.name == call.function_name), None)
    computing = [f for f in functions if any(t.dtype.is_floating_point for t in f.outputs)]
    if hasattr(module, "padding_mode"):  # a convolution pads its input itself in other modes
        computing = [f for f in computing if f.name != "pad"]
    if hasattr(module, "parametrizations"):  # whose functions make its weight
        computing = computing[-1:]
    if not computing:
        computing = list(functions)
    return computing[0] if len(computing) == 1 else None


def _name(call: LayerCall, function: FunctionRecord | None) -> str | None:
    name = call.function_name if function is None else function.name
    return name and (_OWN_WORD.get(call.type) or _OWN_WORD.get(name) or name)


def _family(call: LayerCall, function: FunctionRecord | None) -> Family | None:
    name = _name(call, function)
    return None if name is None else family_of_function(name)


def _kind(call: LayerCall, function: FunctionRecord | None, family: Family | None) -> str:
    name = _name(call, function)
    if name is None:
        return "identity" if call.returns_input and not call.operations else call.type
    if name in _OWN_WORD.values():
        return name
    return call.type if family is None else family.name


def _module_geometry(
    family: Family | None, module: nn.Module, function: FunctionRecord | None, training: bool
) -> dict[str, Any]:
    """Return a module's settings; `training` where it changes what is computed."""
    if family is None:
        return {}
    called_with = {} if function is None else _bound(function)
    geometry: dict[str, Any] = {}
    for name in family.settings:
        if hasattr(module, name):
            geometry[name] = getattr(module, name)
        elif name == "dim" and name in called_with:  # nn.Softmax2d
            geometry[name] = called_with[name]
    if family.weight_settings is not None:
        geometry["bias"] = module.bias is not None
    if not set(_MODES).isdisjoint(family.parameters):
        geometry["training"] = training
    return geometry


def _function_geometry(family: Family | None, function: FunctionRecord) -> dict[str, Any]:
    """Return a function's settings, under the names that modules use."""
    bound = _bound(function)
    geometry = {
        **({} if family is None else family.defaults),
        **{name: value for name, value in bound.items() if _is_setting(value)},
    }
    weight = bound.get("weight")
    if isinstance(weight, TensorRecord):
        if family is not None and family.weight_settings is not None:
            geometry |= family.weight_settings(weight.shape, geometry.get("groups", 1))
        geometry["bias"] = bound.get("bias") is not None
    return geometry


def _bound(function: FunctionRecord) -> dict[str, Any]:
    """Return the arguments by name, of a function that has others than tensors."""
    if len(parameter_names(function.name)) < 2:
        return {}
    return bound_arguments(function.name, function.args, function.kwargs)


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(isinstance(item, int | float) for item in value)
    return isinstance(value, bool | int | float | str)


def _expanded(family: Family | None, geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a convolution's `kernel_size=3` as (3, 3)."""
    dims = 0 if family is None else family.convolved_dims
    return {
        name: per_dimension(value, dims)
        if dims and name in _SIZES and isinstance(value, int)
        else value
        for name, value in geometry.items()
    }
