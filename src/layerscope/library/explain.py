"""`layerscope.explain`: a torch user's own module, without Hydra and Lightning."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

# The base class of convolutions and transposed ones, which have no public one.
from torch.nn.modules.conv import _ConvNd

from layerscope.base.errors import UserError
from layerscope.config.problems import first_problem, frozen
from layerscope.config.schema import Choice, CrossEntropyConfig, LossConfig, MSEConfig
from layerscope.dry_run import Shape
from layerscope.explain.engine import explain_network, preparation
from layerscope.explain.explanation import ExplainSettings
from layerscope.explain.instance import random_image
from layerscope.layers.calls import require_module
from layerscope.library.profile import own_dtype
from layerscope.reconcile.settings import check_settings
from layerscope.report.explain.report import ExplanationReport

_AXES = {1: "L", 2: "HW", 3: "DHW"}  # of an image
_DTYPES = ("float32", "float64", "bfloat16")


def explain(
    model: nn.Module,
    input_shape: Sequence[int] | None = None,
    *,
    image: torch.Tensor | None = None,
    dtype: str | None = None,
    train: bool | None = None,
    layer: str | None = None,
    position: Sequence[int] | None = None,
    input_position: Sequence[int] | None = None,
    weight_position: Sequence[int] | None = None,
    loss: str = "cross_entropy",
    label_smoothing: float = 0.0,
    target: int = 0,
    learning_rate: float = 0.01,
    seed: int = 0,
    analysis: bool = False,
) -> ExplanationReport:
    """Show the arithmetic of one training step with its own numbers; print it or `.save` it.

    The model runs once and is left as it was; where it would have to change its dtype, a copy runs.

    Args:
        input_shape: with the batch, (N, C, H, W); needed where no image is given.
        image: (N, C, H, W); random values by `seed` where it is not given.
        dtype: `float32`, `float64` or `bfloat16`; by default the model's own.
        train: None leaves every submodule in the mode that it has.
        layer: whose values are explained; by default all layers, at their default positions.
        position: of the layer's output, [n, c, h, w]; `input_position` is that of dL/dx, and
            `weight_position` that of dL/dw and the updates.
        loss: `cross_entropy` or `mse`, against class `target` and averaged over the batch.
        analysis: build variants of the model and measure them for the documents' Analysis.

    Raises:
        UserError: the model does not run on this, or a layer, position or setting is not there.
    """
    require_module(model)
    choice = _choice(
        seed=seed,
        layer=layer,
        position=position,
        input_position=input_position,
        weight_position=weight_position,
        target=target,
        learning_rate=learning_rate,
    )
    settings = ExplainSettings(
        network=type(model).__name__,
        input_shape=_shape(input_shape, image),
        dtype=_dtype(dtype or own_dtype(model)),
        train=train,
        layer=choice.layer,
        position=choice.position,
        input_position=choice.input_position,
        weight_position=choice.weight_position,
        loss=_loss(loss, label_smoothing),
        target=choice.target,
        learning_rate=choice.learning_rate,
        origin=(
            ("weights", "the model's own"),
            ("image", f"random, seed {seed}" if image is None else "given"),
        ),
    )
    _check_batch(model, settings.input_shape)
    check_settings(model, preparation(settings))
    if image is None:
        image = random_image(settings.input_shape, seed)
    return ExplanationReport(explain_network(model, settings, image, analysis))


def _shape(input_shape: Sequence[int] | None, image: torch.Tensor | None) -> tuple[int, ...]:
    if input_shape is None and image is None:
        raise UserError("give input_shape, (N, C, H, W), or an image")
    if isinstance(input_shape, int):
        raise UserError(f"input_shape={input_shape}: give all sizes, (N, C, H, W)")
    if image is None:
        return tuple(input_shape or ())
    if not isinstance(image, torch.Tensor):
        raise UserError(f"image is a {type(image).__name__}, not a tensor")
    if input_shape is not None and tuple(input_shape) != tuple(image.shape):
        raise UserError(
            f"input_shape={tuple(input_shape)} but the image is {tuple(image.shape)}: give one"
        )
    return tuple(image.shape)


def _check_batch(model: nn.Module, shape: Shape) -> None:
    """Refuse an image without its batch: a convolution takes it, but there is no loss of it.

    Raises:
        UserError: the shape lacks N.
    """
    for module in model.modules():
        kernel = getattr(module, "kernel_size", None)
        if isinstance(module, _ConvNd) and isinstance(kernel, tuple):
            if len(shape) == len(kernel) + 1:
                sizes = ", ".join(("N", "C", *_AXES[len(kernel)]))
                raise UserError(
                    f"input_shape={shape} lacks the batch: give ({sizes}), such as {(1, *shape)}"
                )
            return


def _dtype(name: str) -> str:
    if name not in _DTYPES:
        raise UserError(f"dtype={name}: choose one of {', '.join(_DTYPES)}")
    return name


def _choice(**values: Any) -> Choice:
    try:
        return Choice.model_validate(frozen(values))
    except ValidationError as error:
        raise UserError(first_problem(error)) from error


def _loss(name: str, label_smoothing: float) -> LossConfig:
    if name == "cross_entropy":
        try:
            return CrossEntropyConfig(name="cross_entropy", label_smoothing=label_smoothing)
        except ValidationError as error:
            raise UserError(first_problem(error)) from error
    if name == "mse":
        return MSEConfig(name="mse")
    raise UserError(f"loss={name}: choose cross_entropy or mse")
