"""Other networks made of a given one, to be counted and run beside it.

A variant is a copy without weights, on the meta device: surgery on it costs nothing, and what has
to follow (the next layer's input channels, a norm's) is fitted by sending an image through.
"""

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from layerscope.dry_run import Shape
from layerscope.errors import UserError
from layerscope.whatif.fitting import fitted, is_convolution, scale_outputs
from layerscope.whatif.words import code


def skeleton(network: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy on the meta device, shared parameters shared.

    Args:
        dtype: of its floating-point parameters and buffers; their own if not given.

    Raises:
        UserError: the network cannot be copied.
    """
    return _copied(network, "meta", dtype)


def with_memory(variant: nn.Module, device: torch.device) -> nn.Module:
    """A copy whose parameters and buffers have memory that nobody has touched yet.

    Raises:
        UserError: the network cannot be copied.
    """
    return _copied(variant, device, None)


def _copied(network: nn.Module, device: torch.device | str, dtype: torch.dtype | None) -> nn.Module:
    def of(tensor: torch.Tensor) -> torch.Tensor:
        to = dtype if tensor.is_floating_point() else None
        fresh = torch.empty_like(tensor, device=device, dtype=to, requires_grad=False)
        if not isinstance(tensor, nn.Parameter):
            return fresh
        return nn.Parameter(fresh, tensor.requires_grad)

    memo: dict[int, Any] = {
        id(tensor): of(tensor) for tensor in (*network.parameters(), *network.buffers())
    }
    try:
        return copy.deepcopy(network, memo)
    except Exception as error:  # a user's module may forbid it in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{type(network).__name__} cannot be copied: {reason}") from error


def separable(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Every k x k convolution as a depthwise one and a 1 x 1 one behind it.

    Returns the variant and the paths of the convolutions that were replaced.

    Raises:
        UserError: there is none.
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
    return variant, paths


def _separated(conv: Any) -> nn.Module:
    """The bias, if there is one, stays with the second: behind the first it would be undone."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(conv.kernel_size)]
    where = {"device": "meta", "dtype": conv.weight.dtype}
    channels = conv.in_channels
    separated = nn.Sequential()
    depthwise = kind(
        channels,
        channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=channels,
        bias=False,
        padding_mode=conv.padding_mode,
        **where,
    )
    has_bias = conv.bias is not None
    separated.add_module("depthwise", depthwise)
    separated.add_module("pointwise", kind(channels, conv.out_channels, 1, bias=has_bias, **where))
    return separated.requires_grad_(conv.weight.requires_grad).train(conv.training)


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def flattened(network: nn.Module, pooling: str, input_shape: Shape) -> nn.Module:
    """Without the global pooling of this path: the linear layer behind reads the whole maps.

    Raises:
        UserError: what is behind cannot do without it.
    """
    variant = skeleton(network)
    _replace(variant, pooling, nn.Identity())
    return fitted(variant, input_shape)


def widened(network: nn.Module, classifiers: Collection[str], input_shape: Shape) -> nn.Module:
    """With twice the channels and features wherever neither the image nor the classes decide.

    Args:
        classifiers: paths of the layers whose outputs are the network's.

    Raises:
        UserError: the network has a layer that cannot follow.
    """
    variant = skeleton(network)
    for path, module in variant.named_modules():
        if path not in classifiers:
            scale_outputs(module, 2, 1)
    return fitted(variant, input_shape)


def deepened(network: nn.Module, input_shape: Shape) -> tuple[nn.Module, str]:
    """With the last of its repeated blocks once more, and its channels grown as before.

    Blocks that follow each other in an nn.Sequential repeat where their layers are of the same
    kinds in the same order. The new one's outputs grow over the last one's as those did over the
    outputs of the one before.

    Returns the variant and the path of the block that was repeated.

    Raises:
        UserError: there is no such block, or the network cannot run with one more.
    """
    variant = skeleton(network)
    path, container, first, second = _last_blocks(variant)
    names = list(dict(container.named_children()))
    start, length = second.start, len(second)
    children = list(container.children())
    block = [copy.deepcopy(children[at]) for at in second]
    grown, before = (_last_outputs([children[at] for at in unit]) for unit in (second, first))
    for module in block:
        for part in module.modules():
            scale_outputs(part, grown, before)
    copies = _insert(container, start + length, names[start : start + length], block)
    prefix = f"{path}." if path else ""
    last = names[start] if length == 1 else f"{names[start]} … {names[start + length - 1]}"
    called = copies[0] if length == 1 else f"{copies[0]} … {copies[-1]}"
    change = f"with a copy of {code(prefix + last)} behind it, called {code(prefix + called)}"
    return fitted(variant, input_shape, change), prefix + last


def _last_blocks(network: nn.Module) -> tuple[str, nn.Sequential, range, range]:
    """The container with its path, and in it the children that are the last two blocks."""
    for path, container in _by_depth(network):
        units = _repeated(container)
        if units is not None:
            return path, container, *units
    raise UserError(
        "no block of it is repeated, so that it is open which layers one more would have"
    )


def _by_depth(network: nn.Module) -> list[tuple[str, nn.Sequential]]:
    """All nn.Sequential, the outermost first, of one depth the last first."""
    found = [(p, m) for p, m in network.named_modules() if isinstance(m, nn.Sequential)]
    found.reverse()
    return sorted(found, key=lambda item: item[0].count(".") + bool(item[0]))


def _repeated(container: nn.Sequential) -> tuple[range, range] | None:
    """The last two of the blocks that repeat: of all, those that cover most children."""
    children = list(container.children())
    kinds = [_kinds(module) for module in children]
    best: tuple[int, int, int] | None = None  # covered children, end, length of a block
    for length in range(1, len(kinds) // 2 + 1):
        run = 0
        for at in range(length, len(kinds)):
            run = run + 1 if kinds[at] == kinds[at - length] else 0
            block = children[at - length + 1 : at + 1]
            whole = run // length * length
            if whole and _has_block(block) and (best is None or whole + length > best[0]):
                best = (whole + length, at + 1, length)
    if best is None:
        return None
    _, end, length = best
    return range(end - 2 * length, end - length), range(end - length, end)


def _has_block(modules: list[nn.Module]) -> bool:
    """A convolution and something else: one layer alone is no block."""
    parts = [part for module in modules for part in module.modules()]
    leaves = [part for part in parts if not list(part.children())]
    return len(leaves) > 1 and any(is_convolution(module) for module in leaves)


def _kinds(module: nn.Module) -> tuple[type, ...]:
    return tuple(type(part) for part in module.modules())


def _last_outputs(modules: list[nn.Module]) -> int:
    """Channels of the last convolution."""
    parts = [part for module in modules for part in module.modules()]
    convolutions: list[Any] = [part for part in parts if is_convolution(part)]
    return convolutions[-1].out_channels


def _insert(
    container: nn.Sequential, at: int, names: list[str], block: list[nn.Module]
) -> list[str]:
    """Behind the block of these names, under new ones, returned; those behind keep theirs."""
    children = list(container.named_children())
    taken = {name for name, _ in children}
    new: list[tuple[str, nn.Module]] = []
    for name, module in zip(names, block, strict=True):
        fresh = f"{name}_more"
        while fresh in taken:
            fresh += "_more"
        taken.add(fresh)
        new.append((fresh, module))
    for name, _ in children:
        delattr(container, name)
    for name, module in (*children[:at], *new, *children[at:]):
        container.add_module(name, module)
    return [name for name, _ in new]


def checkpointed(network: nn.Module) -> tuple[nn.Module, dict[str, tuple[str, ...]]]:
    """Make a variant that saves only what goes into some modules, and computes them again.

    These are the network's children that consist of several layers. Where there is none, and the
    network is an nn.Sequential, its layers in about as many runs as a run has layers.

    Returns the variant and, by the paths of the modules, the network's own children in each.

    Raises:
        UserError: there is nothing to be cut into pieces.
    """
    variant = skeleton(network)
    blocks = [name for name, child in variant.named_children() if len(list(child.modules())) > 2]
    if not blocks:
        if type(variant).forward is not nn.Sequential.forward or len(list(variant.children())) < 4:
            raise UserError("it has neither blocks nor a sequence of four layers or more")
        variant = _in_runs(variant)
        pieces = {name: _names(child) for name, child in variant.named_children()}
    else:
        pieces = {name: (name,) for name in blocks}
    for name in pieces:
        block = variant.get_submodule(name)
        block.forward = _Checkpointed(block)
    return variant, pieces


def _in_runs(network: nn.Module) -> nn.Sequential:
    children = list(network.named_children())
    length = round(len(children) ** 0.5)
    runs = nn.Sequential()
    for number, start in enumerate(range(0, len(children), length)):
        run = nn.Sequential()
        for name, child in children[start : start + length]:
            run.add_module(name, child)
        runs.add_module(f"segment{number + 1}", run)
    return runs.train(network.training)


def _names(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, _ in module.named_children())


class _Checkpointed:
    """A module's forward under torch.utils.checkpoint. A copy belongs to the copied module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.module).forward.__get__(self.module)
        # All of it is computed again, not only what comes before the last tensor that is kept. The
        # generators' states are for dropout's values, which no count and no size depends on.
        with set_checkpoint_early_stop(False):
            return checkpoint(
                forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
            )
