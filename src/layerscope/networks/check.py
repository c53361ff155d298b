"""Check, before any data is read, that a network takes these images and gives these classes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.config.schema import NetworkBase
from layerscope.dry_run import dry_run
from layerscope.layers import preserve_state
from layerscope.networks.layer_calls import blank_image
from layerscope.operations.determinism import is_refused_on_cuda


def check_network(network: nn.Module, config: NetworkBase) -> int:
    """Return the number of tensors that the network returns in train mode; some return several.

    No kernel runs and the network stays as it is.

    Raises:
        UserError: the network refuses model.input_shape, or does not return (N, model.num_classes).
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{type(network).__name__} has no parameters to train")
    with preserve_state(network):
        _output_shapes(network.eval(), config)
        shapes = _output_shapes(network.train(), config)
    found = shapes[0][1:]
    if found != (config.num_classes,):
        raise UserError(
            f"the network makes {found} of an image, not ({config.num_classes},): "
            "change model.num_classes, or the network"
        )
    return len(shapes)


def check_deterministic(network: nn.Module, config: NetworkBase, device: torch.device) -> None:
    """Refuse what torch would refuse on CUDA in the first backward pass; no kernel runs.

    Raises:
        UserError: an operation of the training step has no deterministic algorithm on CUDA.
    """
    image = blank_image(network, (2, *config.input_shape))
    with preserve_state(network), _deterministic_algorithms():
        run = dry_run(network.train(), (image,), device=device)
    for operation in run.operations:
        if is_refused_on_cuda(operation.name):
            raise UserError(
                f"trainer.deterministic=true: {operation.layer or 'the network'} runs "
                f"{operation.base_name.removeprefix('aten::')}, for which a GPU has no "
                "deterministic algorithm: set trainer.deterministic=false, or trainer=cpu"
            )


@contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    """Make torch choose deterministic algorithms; run the others without an error."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings(action="ignore"):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned)


def _output_shapes(network: nn.Module, config: NetworkBase) -> list[tuple[int, ...]]:
    """Return the shape of each tensor that the network returns for two images."""
    try:
        run = dry_run(network, (blank_image(network, (2, *config.input_shape)),), backward=False)
    except UserError as error:
        shape = list(config.input_shape)
        raise UserError(f"model.input_shape={shape} does not fit: {error}") from error
    if not run.outputs:
        raise UserError("the network returns no tensor: return one, or a tuple of them")
    return [tuple(output.shape) for output in run.outputs]
