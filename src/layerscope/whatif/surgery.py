"""Networks that are changed: copies without weights, on the meta device, where surgery is free.

What has to follow a change, the next layer's input channels or a norm's, is fitted by sending an
image through. Each change takes what is known of the network, and returns another network.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any, TypeGuard

import torch
from torch import nn

# The base class of batch and instance norms, which have no public one.
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from layerscope.base.errors import UserError
from layerscope.dry_run import LayerCall, Shape
from layerscope.reconcile.account import Account
from layerscope.whatif.runs import classifiers, skeleton, weighted_layers
from layerscope.whatif.words import code


@dataclass(frozen=True)
class Changed:
    """A network after a change.

    Args:
        network: without memory.
        parts: the modules that were replaced, repeated or checkpointed; a run of layers as several.
    """

    network: nn.Module
    input_shape: Shape
    parts: tuple[tuple[str, ...], ...] = ()


# changes ------------------------------------------------------------------------------------------


def _input_shape(known: Account) -> Shape:
    return known.run.inputs[0].shape


def separable(network: nn.Module, known: Account) -> Changed:
    """Make every k x k convolution a depthwise one and a 1 x 1 one behind it.

    Raises:
        UserError: there is none, or none runs.
    """
    variant = skeleton(network)
    paths = tuple(
        name
        for name, module in variant.named_modules()
        if is_convolution(module) and module.groups == 1 and max(module.kernel_size) > 1
    )
    if not paths or paths == ("",):
        raise UserError("it has no convolution with a window larger than 1 and without groups")
    for path in paths:
        _replace(variant, path, _separated(variant.get_submodule(path)))
    used = weighted_layers(known).keys() & set(paths)
    if not used:
        raise UserError("no convolution with a window larger than 1 runs")
    return Changed(variant, _input_shape(known), tuple((path,) for path in paths if path in used))


def _separated(conv: Any) -> nn.Module:
    """Leave the bias, if there is one, with the second: behind the first it would be undone."""
    make = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(conv.kernel_size)]
    where = {"device": "meta", "dtype": conv.weight.dtype}
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    same: dict[str, Any] = {name: getattr(conv, name) for name in names}
    channels, has_bias = conv.in_channels, conv.bias is not None
    separated = nn.Sequential()
    depthwise = make(channels, channels, groups=channels, bias=False, **same, **where)
    separated.add_module("depthwise", depthwise)
    separated.add_module("pointwise", make(channels, conv.out_channels, 1, bias=has_bias, **where))
    return separated.requires_grad_(conv.weight.requires_grad).train(conv.training)


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def flattened(network: nn.Module, known: Account) -> Changed:
    """Take the last global pooling out: the linear layer behind it reads the whole maps.

    Raises:
        UserError: there is none, it is no module, or what is behind cannot do without it.
    """
    pooling = next(filter(_pools_maps, reversed(known.run.layers)), None)
    if pooling is None:
        raise UserError("no layer without weights makes one value of each map")
    if pooling.function_name is not None:
        raise UserError(
            f"{code(pooling.key)} makes one value of each map, but it is a call in the network's "
            "forward and no module, which could be taken out"
        )
    variant = skeleton(network)
    _replace(variant, pooling.key, nn.Identity())
    shape = _input_shape(known)
    return Changed(fitted(variant, shape), shape, ((pooling.key,),))


def _pools_maps(call: LayerCall) -> bool:
    """Tell whether a call without weights makes one value of each map of (N, C, ...)."""
    if not call.inputs or call.parameters or call.returns_input:
        return False
    before, after = call.input_shape, call.output_shape
    is_one = prod(before[2:]) > 1 and prod(after[2:]) == 1
    return is_one and len(after) >= 2 and before[:2] == after[:2]


def widened(network: nn.Module, known: Account, factor: Fraction) -> Changed:
    """Multiply channels and features wherever neither the image nor the classes decide.

    Raises:
        UserError: there are none, or the network has a layer that cannot follow.
    """
    kept = classifiers(known)
    if not kept:
        raise UserError("no layer multiplies by weights")
    if kept.issuperset(weighted_layers(known)):
        raise UserError("it has no channels between those of its input and of its outputs")
    variant = skeleton(network)
    for path, module in variant.named_modules():
        if path not in kept:
            _scale_outputs(module, factor)
    return Changed(fitted(variant, _input_shape(known)), _input_shape(known))


def enlarged(network: nn.Module, known: Account, factor: int) -> Changed:
    """Give images so many times as high and as wide.

    Raises:
        UserError: they have no height, or the network takes no others.
    """
    batch, channels, *lengths = _input_shape(known)
    if not lengths:
        raise UserError("its input has no height and no width")
    larger = (batch, channels, *(factor * length for length in lengths))
    return Changed(fitted(skeleton(network), larger), larger)


def deepened(network: nn.Module, known: Account) -> Changed:
    """Repeat the last of the repeated blocks once more, its channels grown as before.

    Blocks that follow each other in an nn.Sequential repeat where their layers are of the same
    types in the same order. The new one's outputs grow over the last one's as those did over the
    outputs of the one before.

    Raises:
        UserError: there is no such block, or the network cannot run with one more.
    """
    variant = skeleton(network)
    path, container, first, second = _last_blocks(variant)
    children = list(container.named_children())
    names = [children[at][0] for at in second]
    block = [copy.deepcopy(children[at][1]) for at in second]
    grown, before = (_last_outputs([children[at][1] for at in unit]) for unit in (second, first))
    for module in block:
        for part in module.modules():
            _scale_outputs(part, Fraction(grown, before))
    added = _insert(container, second.stop, names, block)
    prefix = f"{path}." if path else ""
    repeated, new = (tuple(prefix + name for name in group) for group in (names, added))
    change = f"with a copy of {_span(repeated)} behind it, called {_span(new)}"
    shape = _input_shape(known)
    return Changed(fitted(variant, shape, change), shape, (repeated,))


def _span(names: tuple[str, ...]) -> str:
    return code(" … ".join(dict.fromkeys((names[0], names[-1]))))


def _last_blocks(network: nn.Module) -> tuple[str, nn.Sequential, range, range]:
    """Return the container with its path, and in it the children that are the last two blocks."""
    found = [(p, m) for p, m in network.named_modules() if isinstance(m, nn.Sequential)]
    found.reverse()  # the outermost first, of one depth the last first
    for path, container in sorted(found, key=lambda item: item[0].count(".") + bool(item[0])):
        units = _repeated(container)
        if units is not None:
            return path, container, *units
    raise UserError(
        "no block of it is repeated, so that it is open which layers one more would have"
    )


def _repeated(container: nn.Sequential) -> tuple[range, range] | None:
    """Return the last two of the blocks that repeat: of all, those that cover most children."""
    children = list(container.children())
    types = [tuple(type(part) for part in module.modules()) for module in children]
    best: tuple[int, int, int] | None = None  # covered children, end, length of a block
    for length in range(1, len(types) // 2 + 1):
        run = 0
        for at in range(length, len(types)):
            run = run + 1 if types[at] == types[at - length] else 0
            block = children[at - length + 1 : at + 1]
            whole = run // length * length
            if whole and _is_block(block) and (best is None or whole + length > best[0]):
                best = (whole + length, at + 1, length)
    if best is None:
        return None
    _, end, length = best
    return range(end - 2 * length, end - length), range(end - length, end)


def _parts(modules: list[nn.Module]) -> list[Any]:
    return [part for module in modules for part in module.modules()]


def _is_block(modules: list[nn.Module]) -> bool:
    """A block has a convolution and something else: one layer alone is none."""
    leaves = [part for part in _parts(modules) if not list(part.children())]
    return len(leaves) > 1 and any(map(is_convolution, leaves))


def _last_outputs(modules: list[nn.Module]) -> int:
    """Return the channels of the last convolution."""
    return [part for part in _parts(modules) if is_convolution(part)][-1].out_channels


def _insert(
    container: nn.Sequential, at: int, names: list[str], block: list[nn.Module]
) -> list[str]:
    """Put a block behind the one of these names, under new names, which are returned."""
    children = list(container.named_children())
    taken = {name for name, _ in children}
    added: list[tuple[str, nn.Module]] = []
    for name, module in zip(names, block, strict=True):
        fresh = f"{name}_more"
        while fresh in taken:
            fresh += "_more"
        taken.add(fresh)
        added.append((fresh, module))
    for name, _ in children:
        delattr(container, name)
    for name, module in (*children[:at], *added, *children[at:]):
        container.add_module(name, module)
    return [name for name, _ in added]


def lowered(network: nn.Module, known: Account, dtype: torch.dtype) -> Changed:
    """Give parameters, buffers and input another dtype.

    Raises:
        UserError: they are no larger already.
    """
    own = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    if own is not None and own.itemsize <= dtype.itemsize:
        raise UserError(f"it is in {str(own).removeprefix('torch.')} already")
    return Changed(skeleton(network, dtype), _input_shape(known))


def checkpointed(network: nn.Module, known: Account) -> Changed:
    """Save only what goes into some modules, and compute these again in the backward pass.

    They are the network's children that consist of several layers. Where there is none, and the
    network is an nn.Sequential, its layers in about as many runs as a run has layers.

    Raises:
        UserError: there is nothing to be cut into pieces, or no backward pass.
    """
    if not known.run.has_loss:
        raise UserError("there is no backward pass, since no parameter of it learns")
    variant = skeleton(network)
    parts = [(n,) for n, child in variant.named_children() if len(list(child.modules())) > 2]
    blocks = [variant.get_submodule(name) for (name,) in parts]
    if not blocks:
        children = list(variant.named_children())
        if type(variant).forward is not nn.Sequential.forward or len(children) < 4:
            raise UserError("it has neither blocks nor a sequence of four layers or more")
        length = round(len(children) ** 0.5)
        runs = [children[at : at + length] for at in range(0, len(children), length)]
        parts = [tuple(name for name, _ in run) for run in runs]
        blocks = [nn.Sequential(OrderedDict(run)) for run in runs]
        variant = nn.Sequential(*blocks).train(variant.training)
    for block in blocks:
        block.forward = partial(_run_again, block.forward)  # copied along with its block
    return Changed(variant, _input_shape(known), tuple(parts))


def _run_again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a forward under a checkpoint.

    All of it is computed again, not only what comes before the last tensor that is saved. The
    generators' states are for dropout's values, which no count and no size depends on.
    """
    with set_checkpoint_early_stop(False):
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


# fitting ------------------------------------------------------------------------------------------


def is_convolution(module: Any) -> TypeGuard[Any]:
    """Tell whether it is a convolution of any number of dimensions, and no transposed one."""
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def fitted(variant: nn.Module, input_shape: Shape, change: str = "so changed") -> nn.Module:
    """Return the variant itself, its layers made to take what arrives at them.

    Args:
        change: what was done to the network, for the complaint.

    Raises:
        UserError: it does not run all the same.
    """
    dtypes = (p.dtype for p in variant.parameters() if p.is_floating_point())
    image = torch.empty(input_shape, dtype=next(dtypes, None), device="meta")
    running: list[tuple[str, nn.Module, Shape]] = []
    with _watched(variant, running), torch.no_grad():
        try:
            variant(image)
        except Exception as error:  # the user's own forward runs here
            raise UserError(f"{change}, {_complaint(*running[-1])}") from error
    return variant


@contextmanager
def _watched(variant: nn.Module, running: list[tuple[str, nn.Module, Shape]]) -> Iterator[None]:
    """Fit each module when it begins, and note which have begun and not ended."""

    def begin(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            shape = next((tuple(a.shape) for a in args if isinstance(a, torch.Tensor)), ())
            running.append((name, module, shape))
            _fit(module, shape)

        return hook

    handles = []
    for name, module in variant.named_modules():
        handles.append(module.register_forward_pre_hook(begin(name)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _complaint(name: str, module: nn.Module, shape: Shape) -> str:
    shown = code(name) if name else "the network"
    if next(module.children(), None) is None:
        return f"{shown} would be given an input of shape {shape}, and cannot take it"
    return f"the shapes in the forward of {shown} do not fit together"


def _fit(module: Any, shape: Shape) -> None:
    if is_convolution(module):
        channels = shape[-len(module.kernel_size) - 1]
        if channels != module.in_channels:
            if _is_depthwise(module):
                module.out_channels = module.out_channels // module.groups * channels
                module.groups = channels
            module.in_channels = channels
            _remake_convolution(module)
    elif isinstance(module, nn.Linear) and shape[-1] != module.in_features:
        module.in_features = shape[-1]
        _remake(module, weight=(module.out_features, shape[-1]))
    elif isinstance(module, _NormBase) and len(shape) > 1 and shape[1] != module.num_features:
        module.num_features = shape[1]
        names = ("weight", "bias", "running_mean", "running_var")
        _remake(module, **dict.fromkeys(names, (shape[1],)))
    elif isinstance(module, nn.GroupNorm) and len(shape) > 1 and shape[1] % module.num_groups == 0:
        module.num_channels = shape[1]
        _remake(module, weight=(shape[1],), bias=(shape[1],))


def _is_depthwise(conv: Any) -> bool:
    return conv.groups > 1 and conv.groups == conv.in_channels


def _scale_outputs(module: Any, factor: Fraction) -> None:
    """Scale the outputs of a convolution or linear layer, to one channel at least.

    A depthwise convolution follows its input.
    """
    if is_convolution(module) and not _is_depthwise(module):
        module.out_channels = max(1, int(module.out_channels * factor))
        _remake_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features = max(1, int(module.out_features * factor))
        shape = (module.out_features, module.in_features)
        _remake(module, weight=shape, bias=shape[:1])


def _remake_convolution(conv: Any) -> None:
    weight = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
    _remake(conv, weight=weight, bias=(conv.out_channels,))


def _remake(module: nn.Module, **shapes: Shape) -> None:
    """Give parameters and buffers that are there another shape."""
    for name, shape in shapes.items():
        tensor = getattr(module, name, None)
        if tensor is not None and tensor.shape != shape:
            fresh = tensor.new_empty(shape)
            if isinstance(tensor, nn.Parameter):
                fresh = nn.Parameter(fresh, tensor.requires_grad)
            setattr(module, name, fresh)
