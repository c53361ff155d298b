"""What a step of an optimizer makes of the parameters whose gradients are explained."""

from collections.abc import Iterator

from layerscope.explain.explanation import Explanation, LayerExplanation, Update
from layerscope.explain.values import Value
from layerscope.report.document.escape import escaped
from layerscope.report.explain.layer_forward import general_formulas
from layerscope.report.explain.numbers import short
from layerscope.report.explain.value_block import is_noise, value_markdown

_NAMES = {"sgd": "SGD", "adam": "Adam"}


def updates_section(explanation: Explanation) -> Iterator[str]:
    """Its parts; none without updates."""
    if not explanation.updates:
        return
    yield (
        "## Updates\n\nWhat one step of an optimizer makes of the weights and biases whose "
        "gradients stand above."
    )
    for optimizer in dict.fromkeys(update.optimizer for update in explanation.updates):
        updates = [update for update in explanation.updates if update.optimizer == optimizer]
        yield "\n\n".join(
            [
                f"### One step of {_NAMES[optimizer]}",
                *general_formulas(list(updates[0].formulas)),
                *(part for update in updates for part in _update(explanation, update)),
            ]
        )


def _update(explanation: Explanation, update: Update) -> list[str]:
    title = f"{escaped(update.layer)}, {update.parameter}"
    blocks = [value_markdown(value, "torch.optim's") for value in update.values]
    noise = _noise(explanation.layer(update.layer), update)
    return [f"**{title}**", *blocks, *([noise] if noise else [])]


def _noise(layer: LayerExplanation, update: Update) -> str:
    """That the gradient is no more than rounding, and what the optimizer makes of it."""
    removed = update.parameter == "bias" and layer.bias_removed_by is not None
    gradient = _gradient(layer, update)
    if gradient is None or not (removed or is_noise(gradient)):
        return ""
    why = "exactly 0 in mathematics" if removed else "a sum whose terms cancel"
    sentence = f"This gradient is {why}: the number that goes into the step is rounding."
    if update.optimizer == "sgd":
        return f"{sentence} SGD moves the {update.parameter} by as little."
    (*_, after) = update.values
    (before, *_) = after.products
    moved = short(after.computed - float(before))
    return (
        f"{sentence} Adam divides it by its own size: where it is not much smaller than "
        rf"$\epsilon$, the step is about the learning rate however small the gradient is. Here "
        f"{moved}, out of noise."
    )


def _gradient(layer: LayerExplanation, update: Update) -> Value | None:
    values = {
        "weight": layer.weight_gradient_values,
        "bias": layer.bias_gradient_values,
    }[update.parameter]
    return values[-1] if values else None
