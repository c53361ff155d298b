"""Does this network take these images and give these classes? Asked before any data is read."""

from torch import nn

from layerscope.base.errors import UserError
from layerscope.config.schema import NetworkBase
from layerscope.dry_run import dry_run
from layerscope.layers import untouched
from layerscope.networks.layer_calls import blank_image


def check_network(network: nn.Module, config: NetworkBase) -> int:
    """How many tensors the network returns in train mode, where some return more.

    No kernel runs and the network stays as it is.

    Raises:
        UserError: it refuses model.input_shape, or does not return (N, model.num_classes).
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{type(network).__name__} has no parameters to train")
    with untouched(network):
        _output_shapes(network.eval(), config)
        shapes = _output_shapes(network.train(), config)
    found = shapes[0][1:]
    if found != (config.num_classes,):
        raise UserError(
            f"the network makes {found} of an image, not ({config.num_classes},): "
            "change model.num_classes, or the network"
        )
    return len(shapes)


def _output_shapes(network: nn.Module, config: NetworkBase) -> list[tuple[int, ...]]:
    """Return the shape of each tensor that the network returns of two images."""
    try:
        run = dry_run(network, (blank_image(network, (2, *config.input_shape)),), backward=False)
    except UserError as error:
        shape = list(config.input_shape)
        raise UserError(f"model.input_shape={shape} does not fit: {error}") from error
    if not run.outputs:
        raise UserError("the network returns no tensor: return one, or a tuple of them")
    return [tuple(output.shape) for output in run.outputs]
