"""A network and settings to its explanation: run one step, then explain each layer from it."""

from dataclasses import replace

import torch
from torch import nn

from layerscope.audit import walkthrough_audit
from layerscope.base.errors import UserError
from layerscope.explain.all_numbers import all_numbers
from layerscope.explain.capture import CapturedCall, CapturedStep, capture_step
from layerscope.explain.captured import Captured, CapturedLoss
from layerscope.explain.consumers import removing_norm
from layerscope.explain.explainer import Explain, Explainer
from layerscope.explain.explanation import (
    Explanation,
    LayerExplanation,
    LossExplanation,
    Settings,
    Update,
)
from layerscope.explain.instance import check_size
from layerscope.explain.kinds import EXPLAINERS, refusal
from layerscope.explain.losses import explain_loss, loss_formulas
from layerscope.explain.positions import Places, check_choice, places
from layerscope.explain.shared_calls import with_later_calls
from layerscope.explain.updates import updates_of
from layerscope.explain.values import Position, Value
from layerscope.networks.layer_calls import (
    DescribedCall,
    NetworkCalls,
    calls_by_layer,
    network_calls,
)
from layerscope.reconcile import CallArguments, ProfileSettings
from layerscope.reconcile.settings import prepared
from layerscope.theory import CostTable, LayerCost, cost_table, textbook_units
from layerscope.whatif import analyse

_MEND = "there is nothing to explain; look at the image and the weights"


def explain_network(
    network: nn.Module, settings: Settings, image: torch.Tensor, analysis: bool = True
) -> Explanation:
    """Explain every layer, or the chosen one, of one training step. The network is left as it was.

    Args:
        image: of settings.input_shape; converted to the dtype.
        analysis: whether variants of the network are built and run for the Analysis section.

    Raises:
        UserError: the network does not run on this, its numbers are not finite, or a layer or
            position is not there.
    """
    needed = preparation(settings)
    dtype = needed.tensor_dtype
    own_image = image.detach().to(dtype, copy=True).requires_grad_()
    with prepared(network, needed, CallArguments((own_image,))) as step:
        (image,) = step.args
        specs = network_calls(step.network, image)
        check_choice(specs, settings)
        check_size("the layers return", sum(spec.output_elements for spec in specs.layers))
        wanted = None if settings.layer is None else frozenset({settings.layer})
        captured = capture_step(step, settings.loss, settings.target, wanted)
        _refuse_non_finite(captured)
        costs = cost_table(specs.run, textbook_units(specs.run), needed.element_size)
        layers, updates = _explain_layers(specs, costs, captured, settings)
        return Explanation(
            settings=settings,
            network=step.network,
            specs=specs,
            costs=costs,
            layers=layers,
            loss=_explain_loss(captured.loss, settings),
            updates=updates,
            numbers=all_numbers(image, captured.calls, specs, image_of(settings)),
            audit=walkthrough_audit(step.network, costs),
            analysis=analyse(step.network, settings.input_shape, dtype) if analysis else (),
        )


def image_of(settings: Settings) -> int:
    """The one of the batch that is looked at."""
    return 0 if settings.position is None else settings.position[0]


def preparation(settings: Settings) -> ProfileSettings:
    """The settings with which the network is made ready to run."""
    return ProfileSettings(
        network=settings.network,
        input_shape=settings.input_shape,
        dtype=settings.dtype,
        train=settings.train,
    )


def _refuse_non_finite(captured: CapturedStep) -> None:
    """Sums with nan or infinity in them explain nothing."""
    for key, call in captured.calls.items():
        gradients = (*call.input_gradients.values(), *call.parameter_gradients.values())
        for what, tensors in (("reads", call.inputs), ("returns", (call.output,))):
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                raise UserError(f"{key} {what} nan or infinity: {_MEND}")
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise UserError(f"a gradient of {key} is nan or infinite: {_MEND}")


def _explain_layers(
    specs: NetworkCalls, costs: CostTable, captured: CapturedStep, settings: Settings
) -> tuple[tuple[LayerExplanation, ...], tuple[Update, ...]]:
    layers: list[LayerExplanation] = []
    updates: list[Update] = []
    calls = calls_by_layer(specs.layers)
    for cost in costs.layers:
        first, *others = calls[cost.layer]
        num_calls = 1 + len(others)
        call = captured.calls.get(cost.layer)
        is_chosen = settings.layer in (None, cost.layer)
        layer = _explain_layer(first, cost, call if is_chosen else None, settings)
        if call is not None and layer.refused is None:
            later = captured.later_calls.get(cost.layer, ())
            arrays = [c.arrays(spec) for c, spec in zip(later, others, strict=False)]
            layer = with_later_calls(layer, EXPLAINERS[first.kind], call, arrays)
        layers.append(
            replace(
                layer,
                num_calls=num_calls,
                is_chosen=is_chosen,
                note=_note(call, num_calls),
                bias_removed_by=removing_norm(specs, first),
            )
        )
        if call is not None and layer.refused is None:
            weight, bias = layer.weight_position, layer.bias_position
            updates += updates_of(call, weight, bias, settings.learning_rate)
    return tuple(layers), tuple(updates)


def _explain_layer(
    spec: DescribedCall, cost: LayerCost, call: CapturedCall | None, settings: Settings
) -> LayerExplanation:
    """Its formulas, and its values if there is a call of it."""
    reason = refusal(spec)
    if reason is not None:
        return LayerExplanation(spec.key, spec, cost, refused=reason)
    explainer = EXPLAINERS[spec.kind]
    layer = LayerExplanation(spec.key, spec, cost, explainer.formulas(spec))
    if call is None:
        return layer
    return _with_values(layer, explainer, call, places(spec, explainer, settings))


def _with_values(
    layer: LayerExplanation, explainer: Explainer, call: CapturedCall, where: Places
) -> LayerExplanation:
    captured = call.arrays(layer.spec)
    layer = replace(
        layer, position=where.output, output_values=explainer.output(captured, where.output)
    )
    if call.is_overwritten:
        return layer
    return replace(
        layer,
        input_position=where.input,
        weight_position=where.weight,
        bias_position=where.bias,
        input_gradient_values=explainer.input_gradient(captured, where.input),
        weight_gradient_values=_values(explainer.weight_gradient, captured, where.weight),
        bias_gradient_values=_values(explainer.bias_gradient, captured, where.bias),
    )


def _values(
    explain: Explain | None, captured: Captured, position: Position | None
) -> tuple[Value, ...]:
    return () if explain is None or position is None else explain(captured, position)


def _note(call: CapturedCall | None, num_calls: int) -> str:
    """What the values are of, where that is not the layer's one call, and what is missing."""
    sentences = []
    if num_calls > 1:
        sentences.append(
            f"Called {num_calls} times in one forward pass: the first call is explained, with its "
            "own part of the gradients; the other calls' parts of the parameters' stand behind it."
        )
    if call is not None and call.is_overwritten:
        sentences.append(
            "What it returns is a view that a later layer overwrites: autograd keeps no gradient "
            "of it."
        )
    return " ".join(sentences)


def _explain_loss(captured: CapturedLoss, settings: Settings) -> LossExplanation:
    """Explain L of all images, and the gradient of the one that is looked at."""
    return LossExplanation(
        kind=captured.kind,
        target=captured.target,
        label_smoothing=captured.label_smoothing,
        formulas=loss_formulas(captured.kind, captured.label_smoothing),
        values=explain_loss(captured, image_of(settings)),
    )
