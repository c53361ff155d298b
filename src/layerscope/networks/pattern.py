from torch import nn

from layerscope.base.errors import UserError
from layerscope.networks.pattern_layers import ACTIVATIONS
from layerscope.networks.pattern_plan import PlannedLayer, Recipe, plan_network, template


class PatternCNN(nn.Sequential):
    """A network from a pattern such as `Input → (Conv → ReLU → Pool) × 2 → FC → ReLU → FC`.

    Maps images (N, C, H, W) to logits (N, num_classes). docs/patterns.md describes the grammar. The
    default arguments give the pattern above, with 2,048 features into its first FC layer.

    Args:
        input_shape: (C, H, W) of one image.
        pattern: None builds the template: M blocks of N convolutions, each block pooled or not, and
            K hidden FC layers. The defaults are M=2, N=1, K=1 and pooled.
        channels: output channels of each block or of each convolution, before the width
            multiplier. None: 16 in the first block, and twice as many in each further block.
        padding: of convolutions; None preserves the size (stride 1, odd kernel).
        hidden_units: of the hidden FC layers, one number for all or one for each.
        batch_norm: adds one after every convolution that has none in the pattern.
        width: multiplies the channels.

    Raises:
        UserError: the keys contradict each other. A mistake in the pattern is a MarkedError, which
            shows its place.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        pattern: str | None = None,
        M: int | None = None,
        N: int | None = None,
        K: int | None = None,
        pool: bool | None = None,
        channels: tuple[int, ...] | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        hidden_units: int | tuple[int, ...] = 128,
        batch_norm: bool = False,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.recipe = Recipe(
            pattern=_written(pattern, M, N, K, pool),
            input_shape=input_shape,
            num_classes=num_classes,
            channels=channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            hidden_units=hidden_units,
            batch_norm=batch_norm,
            width=width,
        )
        for layer in plan_network(self.recipe):
            block, _, name = layer.key.rpartition(".")
            if block and block not in self._modules:
                self.add_module(block, nn.Sequential())
            self.get_submodule(block).add_module(name, _module(layer))


def _written(
    pattern: str | None, M: int | None, N: int | None, K: int | None, pool: bool | None
) -> str:
    """Return the pattern, or that of the template."""
    if pattern is None:
        return template(
            2 if M is None else M, N or 1, 1 if K is None else K, True if pool is None else pool
        )
    for name, value in {"M": M, "N": N, "K": K, "pool": pool}.items():
        if value is not None:
            raise UserError(
                f"model.{name}={str(value).lower()} beside model.pattern, which decides that "
                f"itself: leave one of them out (null)"
            )
    return pattern


def _module(layer: PlannedLayer) -> nn.Module:
    settings, features = layer.settings, layer.input_shape[0]
    if layer.kind in ("Conv", "Pool", "AvgPool"):
        k, s, p = (int(settings[name]) for name in "ksp")
        if layer.kind == "Conv":
            return nn.Conv2d(features, layer.output_shape[0], k, s, p)
        return (nn.MaxPool2d if layer.kind == "Pool" else nn.AvgPool2d)(k, s, p)
    if layer.kind == "BN":
        return (nn.BatchNorm1d if len(layer.input_shape) == 1 else nn.BatchNorm2d)(features)
    if layer.kind == "FC":
        return nn.Linear(features, layer.output_shape[0])
    if layer.kind == "Dropout":
        return nn.Dropout(settings["rate"])
    if layer.kind in ("GAP", "Flatten"):
        return nn.AdaptiveAvgPool2d(1) if layer.kind == "GAP" else nn.Flatten()
    return ACTIVATIONS[layer.kind]()
