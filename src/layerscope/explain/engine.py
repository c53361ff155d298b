"""A network and settings to its explanation: run one step, then explain each layer from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from layerscope.audit import walkthrough_audit
from layerscope.base.errors import UserError
from layerscope.explain.all_numbers import all_numbers
from layerscope.explain.capture import CapturedCall, CapturedStep, capture_step, exact
from layerscope.explain.explainer import Explainer
from layerscope.explain.explanation import (
    ExplainSettings,
    Explanation,
    LayerExplanation,
    LossExplanation,
    Update,
)
from layerscope.explain.families import explainer_of, operation_in, refusal
from layerscope.explain.instance import check_size
from layerscope.explain.losses import CapturedLoss, explain_loss, loss_formulas
from layerscope.explain.operation import MASK, Captured, Operation
from layerscope.explain.positions import Places, check_choice, chosen_places
from layerscope.explain.updates import updates_of
from layerscope.explain.values import Factor, Position, Terms, Value
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
    network: nn.Module, settings: ExplainSettings, image: torch.Tensor, analysis: bool = True
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
        operations = {
            key: _operations(calls) for key, calls in calls_by_layer(specs.layers).items()
        }
        check_choice({key: first for key, (first, *_) in operations.items()}, settings)
        check_size("the layers return", sum(spec.output_elements for spec in specs.layers))
        wanted = None if settings.layer is None else frozenset({settings.layer})
        captured = capture_step(step, settings.loss, settings.target, operations, wanted)
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


def image_of(settings: ExplainSettings) -> int:
    """The one of the batch that is looked at."""
    return 0 if settings.position is None else settings.position[0]


def preparation(settings: ExplainSettings) -> ProfileSettings:
    """The settings with which the network is made ready to run."""
    return ProfileSettings(
        network=settings.network,
        input_shape=settings.input_shape,
        dtype=settings.dtype,
        train=settings.train,
    )


def _refuse_non_finite(captured: CapturedStep) -> None:
    """Refuse sums with nan or infinity in them, which explain nothing."""
    for key, call in captured.calls.items():
        read = [tensor for symbol, tensor in call.operands.items() if symbol != MASK]
        for what, tensors in (("reads", read), ("returns", (call.output,))):
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                raise UserError(f"{key} {what} nan or infinity: {_MEND}")
        if not all(bool(gradient.isfinite().all()) for gradient in call.gradients.values()):
            raise UserError(f"a gradient of {key} is nan or infinite: {_MEND}")


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of the network.

    Args:
        calls: in order; `operations` is what each computes, None where it is not explained.
        captured: of the calls that were captured.
    """

    calls: tuple[DescribedCall, ...]
    operations: tuple[Operation | None, ...]
    captured: tuple[CapturedCall, ...]
    is_chosen: bool


def _explain_layers(
    specs: NetworkCalls, costs: CostTable, captured: CapturedStep, settings: ExplainSettings
) -> tuple[tuple[LayerExplanation, ...], tuple[Update, ...]]:
    layers: list[LayerExplanation] = []
    updates: list[Update] = []
    calls = calls_by_layer(specs.layers)
    for cost in costs.layers:
        found = _Layer(
            calls[cost.layer],
            _operations(calls[cost.layer]),
            tuple(captured.calls_of(cost.layer)),
            settings.layer in (None, cost.layer),
        )
        layer = _explain_layer(found, cost, settings)
        layers.append(replace(layer, bias_removed_by=_removing_norm(specs, found)))
        if found.captured and layer.refused is None:
            weight, bias = layer.weight_position, layer.bias_position
            updates += updates_of(found.captured[0], weight, bias, settings.learning_rate)
    return tuple(layers), tuple(updates)


def _operations(calls: Sequence[DescribedCall]) -> tuple[Operation | None, ...]:
    return tuple(operation_in(call) if refusal(call) is None else None for call in calls)


def _explain_layer(found: _Layer, cost: LayerCost, settings: ExplainSettings) -> LayerExplanation:
    """Return its formulas, and its values if there is a call of it."""
    first, operation = found.calls[0], found.operations[0]
    explainer = None if operation is None else explainer_of(operation)
    call = found.captured[0] if found.captured and found.is_chosen else None
    layer = LayerExplanation(
        first.key,
        first,
        cost,
        num_calls=len(found.calls),
        is_chosen=found.is_chosen,
        refused=refusal(first),
        note=_note(found, call),
    )
    if operation is None or explainer is None:
        return layer
    layer = replace(layer, formulas=explainer.formulas(operation))
    if call is None:
        return layer
    return _with_values(layer, explainer, found, chosen_places(operation, explainer, settings))


def _with_values(
    layer: LayerExplanation, explainer: Explainer, found: _Layer, where: Places
) -> LayerExplanation:
    call, *later = found.captured
    (captured, *others) = (
        one.arrays(operation)
        for one, operation in zip((call, *later), found.operations, strict=False)
        if operation is not None
    )
    layer = replace(
        layer, position=where.output, output_values=explainer.output(captured, where.output)
    )
    if call.is_overwritten:
        return layer

    def gradient(symbol: str) -> tuple[Value, ...]:
        position = where.operands.get(symbol)
        return () if position is None else explainer.gradient(captured, symbol, position)

    def parameter_gradient(symbol: str) -> tuple[Value, ...]:
        position, own = where.operands.get(symbol), gradient(symbol)
        if not others or position is None or symbol not in call.parameters:
            return own
        return _all_calls(own, explainer, others, (symbol, position), call)

    inputs = [
        value for symbol in (explainer.input, *explainer.others) for value in gradient(symbol)
    ]
    return replace(
        layer,
        input_position=where.operands[explainer.input],
        weight_position=where.operands.get("w"),
        bias_position=where.operands.get("b"),
        input_gradient_values=tuple(inputs),
        weight_gradient_values=parameter_gradient("w"),
        bias_gradient_values=parameter_gradient("b"),
    )


def _all_calls(
    own: tuple[Value, ...],
    explainer: Explainer,
    later: Sequence[Captured],
    place: tuple[str, Position],
    first: CapturedCall,
) -> tuple[Value, ...]:
    """Return the first call's gradient of a parameter, those of the later ones, and their sum.

    Args:
        place: the parameter's symbol, and the position in it.
        first: whose `whole_gradients` are autograd's sums.
    """
    symbol, position = place
    values, last = list(own), own[-1]
    parts = [last.computed]
    for number, captured in enumerate(later, start=2):
        found = explainer.gradient(captured, symbol, position)
        values += [replace(value, name=f"{value.name}, call {number}") for value in found]
        parts.append(found[-1].computed)
    whole = first.whole_gradients.get(symbol)
    factor = Factor(rf"\frac{{\partial L}}{{\partial {symbol}}}", np.array(parts))
    total = Value(
        name=f"{last.name}, all calls",
        layer=last.layer,
        reduction="sum",
        groups=(Terms((factor,), len(parts)),),
        actual=None if whole is None else float(exact(whole)[position]),
        dtype=last.dtype,
        note="One part from each call: this is what an optimizer gets.",
    )
    return (*values, total)


def _note(found: _Layer, call: CapturedCall | None) -> str:
    """Say what the values are of, where that is not the layer's one call, and what is missing."""
    sentences = []
    if len(found.calls) > 1:
        sentences.append(
            f"Called {len(found.calls)} times in one forward pass: the first call is explained, "
            "with its own part of the gradients; the other calls' parts of the parameters' stand "
            "behind it."
        )
    if call is not None and call.is_overwritten:
        sentences.append(
            "What it returns is a view that a later layer overwrites: autograd keeps no gradient "
            "of it."
        )
    if call is not None:
        sentences += [
            _weight_note(found, call, *names) for names in (("weight", "w"), ("bias", "b"))
        ]
    return " ".join(filter(None, sentences))


def _weight_note(found: _Layer, call: CapturedCall, word: str, symbol: str) -> str:
    """Say where a weight comes from that is not the layer's own."""
    path, own = call.parameters.get(symbol), f"{found.calls[0].path}.{word}".removeprefix(".")
    if symbol not in call.operands or path == own:
        return ""
    if path is not None:
        return f"Its {word} ${symbol}$ is the parameter {path}."
    return (
        f"Its {word} ${symbol}$ is no parameter but made of other tensors: its gradient is that of "
        "what was made."
    )


def _removing_norm(network: NetworkCalls, found: _Layer) -> str | None:
    """Return the batch norm in train mode that alone reads the layer's output: it undoes a bias.

    It subtracts the mean of each channel over the batch, so L does not depend on what was added to
    the whole channel. None where there is no bias or something else reads the output too.
    """
    spec, operation = found.calls[0], found.operations[0]
    explainer = None if operation is None else explainer_of(operation)
    if operation is None or explainer is None or "b" not in operation.shapes:
        return None
    if explainer.bias_dim(operation) != 1:
        return None
    made = {tensor.storage for tensor in spec.outputs}
    if any(tensor.storage in made for tensor in network.outputs):
        return None
    readers = [
        layer for layer in network.layers if any(read.storage in made for read in layer.arguments)
    ]
    if all(_removes_shift(reader) for reader in readers):
        return readers[0].key if readers else None
    return None


def _removes_shift(spec: DescribedCall) -> bool:
    (operation,) = _operations([spec])
    explainer = None if operation is None else explainer_of(operation)
    return operation is not None and explainer is not None and explainer.removes_shift(operation)


def _explain_loss(captured: CapturedLoss, settings: ExplainSettings) -> LossExplanation:
    """Explain L of all images, and the gradient of the one that is looked at.

    That is the first where the chosen position's first index is no image's.
    """
    image = image_of(settings)
    return LossExplanation(
        kind=captured.kind,
        target=captured.target,
        label_smoothing=captured.label_smoothing,
        formulas=loss_formulas(captured.kind, captured.label_smoothing),
        values=explain_loss(captured, image if image < len(captured.outputs) else 0),
    )
