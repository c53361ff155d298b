"""explain.json: every value with all its terms, the formulas, the updates."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from layerscope.base.files import write_text
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.explanation import ExplainSettings, Explanation, LayerExplanation, Update
from layerscope.explain.values import Floats, Terms, Value

FORMAT = 2


def save_explain_json(path: Path, explanation: Explanation) -> None:
    """The whole explanation; nan and infinities are null, since JSON has none."""
    parts = {
        "format": _dumped(FORMAT),
        "settings": _dumped(_settings(explanation.settings)),
        "values": _listed(_value_text(value) for value in explanation.values),
        "layers": _listed(_dumped(_layer(layer)) for layer in explanation.layers),
        "loss": _dumped(_loss(explanation)),
        "updates": _listed(_update_text(update) for update in explanation.updates),
        "analysis": _listed(_dumped(asdict(finding)) for finding in explanation.analysis),
        "refused_types": _dumped(explanation.refused_types),
    }
    write_text(
        path, "{\n" + ",\n".join(f'"{key}": {text}' for key, text in parts.items()) + "\n}\n"
    )


def _settings(settings: ExplainSettings) -> dict[str, Any]:
    plain = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    return plain | {"loss": settings.loss.model_dump(), "origin": dict(settings.origin)}


def _layer(layer: LayerExplanation) -> dict[str, Any]:
    return {
        "layer": layer.key,
        "type": layer.spec.type,
        "input_shapes": layer.spec.input_shapes,
        "output_shapes": layer.spec.output_shapes,
        "num_calls": layer.num_calls,
        "position": layer.position,
        "input_position": layer.input_position,
        "weight_position": layer.weight_position,
        "bias_position": layer.bias_position,
        "formulas": _formulas(layer.formulas),
        "refused": layer.refused,
        "note": layer.note,
    }


def _loss(explanation: Explanation) -> dict[str, Any]:
    loss = explanation.loss
    return {
        "kind": loss.kind,
        "target": loss.target,
        "label_smoothing": loss.label_smoothing,
        "formulas": _formulas(loss.formulas),
    }


def _formulas(formulas: Sequence[GeneralFormula]) -> list[dict[str, Any]]:
    return [asdict(formula) for formula in formulas]


def _update_text(update: Update) -> str:
    head = {
        "layer": update.layer,
        "parameter": update.parameter,
        "position": update.position,
        "optimizer": update.optimizer,
        "learning_rate": update.learning_rate,
        "formulas": _formulas(update.formulas),
    }
    return _with(head, "values", _listed(_value_text(value) for value in update.values))


def _value_text(value: Value) -> str:
    head = {
        "name": value.name,
        "layer": value.layer,
        "reduction": value.reduction,
        "computed": _finite(value.computed),
        "actual": _finite(value.actual),
        "dtype": str(value.dtype).removeprefix("torch."),
        "ulps": _finite(value.ulps),
        "magnitude": _finite(value.magnitude),
        "num_terms": value.num_terms,
        "note": value.note,
    }
    terms = (line for group in value.groups for line in _term_lines(group))
    return _with(head, "terms", _listed(terms))


def _term_lines(group: Terms) -> Iterator[str]:
    """One for each term: hundreds of thousands, so they are not built as objects first."""
    columns = [_numbers(factor.values, group.num_terms) for factor in group.factors]
    products = _numbers(group.products, group.num_terms)
    padding = [False] * group.num_terms if group.is_padding is None else group.is_padding.tolist()
    for factors, product, pads in zip(zip(*columns, strict=True), products, padding, strict=True):
        end = ', "is_padding": true}' if pads else "}"
        yield f'{{"factors": [{", ".join(factors)}], "product": {product}{end}'


def _numbers(values: Floats, count: int) -> list[str]:
    column = values.reshape(-1).tolist()
    if np.isfinite(values).all():
        texts = list(map(repr, column))
    else:
        texts = [repr(number) if math.isfinite(number) else "null" for number in column]
    return texts if values.ndim else texts * count


def _with(head: dict[str, Any], key: str, text: str) -> str:
    """The object with one more member, which is text already."""
    return f'{_dumped(head)[:-1]}, "{key}": {text}}}'


def _listed(texts: Iterator[str]) -> str:
    """A line each."""
    lines = ",\n".join(texts)
    return f"[\n{lines}\n]" if lines else "[]"


def _dumped(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
