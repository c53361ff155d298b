"""torchinfo's summary, layer by layer and in total.

torchinfo multiplies a module's parameters by the sizes of its output: for a convolution by its
positions, biases included; for every other module by the batch alone. It knows modules without
children; what a function computes, a product of two activations for example, it does not see.
"""

import inspect
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from layerscope.layers.calls import class_name, is_leaf
from layerscope.measure.step import Step

# They only hold other modules.
_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class TorchinfoFailed(RuntimeError):
    """torchinfo cannot summarize this network: its figures are unknown, not 0."""


@dataclass(frozen=True)
class TorchinfoCounts:
    """torchinfo's figures of one forward pass.

    Args:
        macs, output_bytes, num_parameters: by layer, its calls summed. Layers are modules of
            torch.nn without children; other modules stand in the totals only. `output_bytes` is
            what "Forward/backward pass size" takes of a layer: twice its output.
        total_mult_adds, total_params, forward_backward_bytes, parameter_bytes: the totals that
            torchinfo prints; bytes in the place of its megabytes.
    """

    version: str
    macs: Mapping[str, int]
    output_bytes: Mapping[str, int]
    num_parameters: Mapping[str, int]
    total_mult_adds: int
    total_params: int
    forward_backward_bytes: int
    parameter_bytes: int


def torchinfo_counts(step: Step) -> TorchinfoCounts:
    """Summarize one forward of the step's network on the step's own arguments.

    The network runs once, without gradients, in the mode of its outermost module, and is left as it
    was.

    Raises:
        TorchinfoFailed: torchinfo does not take the network or its arguments.
    """
    network = step.network
    with step.preserve_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The step itself has shown the network's warnings.
        try:
            with step.precision():
                summary = _summary(step)
        except Exception as error:  # The user's forward and torchinfo may raise anything.
            reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
            name = type(network).__name__
            raise TorchinfoFailed(f"torchinfo cannot summarize {name}: {reason}") from error
    paths = _layer_paths(network)
    macs, output_bytes, num_parameters = Counter[str](), Counter[str](), Counter[str]()
    for info in summary.summary_list:
        path = paths.get(info.module)
        if path is None or not info.executed:
            continue
        macs[path] += info.macs
        output_bytes[path] += 2 * info.output_bytes if info.num_params > 0 else 0
        num_parameters[path] += 0 if info.is_recursive else info.num_params
    return TorchinfoCounts(
        version=version("torchinfo"),
        macs=dict(macs),
        output_bytes=dict(output_bytes),
        num_parameters=dict(num_parameters),
        total_mult_adds=summary.total_mult_adds,
        total_params=summary.total_params,
        forward_backward_bytes=summary.total_output_bytes,
        parameter_bytes=summary.total_param_bytes,
    )


def _summary(step: Step) -> Any:
    import torchinfo
    from torchinfo.torchinfo import clear_cached_forward_pass

    args, kwargs = step.arguments()
    own = inspect.signature(torchinfo.summary).parameters
    taken = next((name for name in kwargs if name in own), None)
    if taken is not None:
        raise TypeError(f"its own parameter {taken} has the name of the network's argument")
    mode = "train" if step.network.training else "eval"
    try:
        with torch.no_grad():
            return torchinfo.summary(step.network, input_data=args, mode=mode, verbose=0, **kwargs)
    finally:
        clear_cached_forward_pass()  # It keeps the network alive, whatever its settings.


def _layer_paths(network: nn.Module) -> Mapping[nn.Module, str]:
    """Return the keys of the layers that torchinfo sees as such: leaves without children.

    Pruned ones are left out: torchinfo counts the ones of their masks.
    """
    found: dict[nn.Module, str] = {}
    inside: set[nn.Module] = set()
    for path, module in network.named_modules():
        if module in inside or isinstance(module, _HOLDERS) or not is_leaf(module):
            continue
        children = set(module.modules()) - {module}
        inside |= children
        if not children and not _is_pruned(module):
            found[module] = path or class_name(module)
    return found


def _is_pruned(module: nn.Module) -> bool:
    return any(name.endswith("_orig") for name, _ in module.named_parameters())
