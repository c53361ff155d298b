"""Softmax and its logarithm, along one dimension; attention, which weights values by it."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from layerscope.explain import notation
from layerscope.explain.explainer import Explainer, GeneralFormula, where_used
from layerscope.explain.factors import (
    derived,
    derived_constant,
    gathered,
    places,
    product,
    single,
    sum_value,
)
from layerscope.explain.notation import DL_DY, at, gradient, spaced, summed
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import Factor, Floats, Indices, Position, Terms, Value, indexed

PROBABILITY = "e^({} − {})/{}"  # of the score, the largest of the row, Z


def exponential_factor(letter: str, scores: Factor, maximum: float) -> Factor:
    """Return e^(score − M) at the places of the scores.

    Args:
        letter: of the scores.
    """
    factor = Factor(f"e^{{{letter} - M}}", np.exp(scores.values - maximum), scores.places)
    return derived(factor, "e^({} − {})", scores.values, maximum)


def one_over_z(z: float) -> Factor:
    """Return 1/Z."""
    return derived_constant(r"\frac{1}{Z}", 1 / z, "1/{}", z)


def largest_of(name: str, key: str, scores: Factor, dtype: torch.dtype) -> Value:
    """Return the largest of a row of scores."""
    note = "The largest is subtracted before e is raised to it: large numbers would overflow."
    return Value(name, key, "max", (product(scores),), None, dtype, note)


@dataclass(frozen=True, eq=False)
class _ScoreRow:
    """Scores whose probabilities add up to 1."""

    scores: Floats

    @property
    def maximum(self) -> float:
        return float(np.max(self.scores))

    @property
    def exponentials(self) -> Floats:
        return np.exp(self.scores - self.maximum)

    @property
    def z(self) -> float:
        return math.fsum(self.exponentials)

    @property
    def probabilities(self) -> Floats:
        return self.exponentials / self.z

    def all(self, symbol: str, where: Indices | None) -> Factor:
        """Return each probability at its place."""
        factor = Factor(symbol, self.probabilities, where)
        return derived(factor, PROBABILITY, self.scores, self.maximum, self.z)

    def one(self, symbol: str, number: int) -> Factor:
        """Return one probability, with the sign of the symbol."""
        share, score = float(self.probabilities[number]), float(self.scores[number])
        arguments = (score, self.maximum, self.z)
        if symbol.startswith("-"):
            return derived_constant(symbol, -share, f"−{PROBABILITY}", *arguments)
        return derived_constant(symbol, share, PROBABILITY, *arguments)


def _dim(operation: Operation) -> int:
    rank, dim = len(operation.output_shape), operation.get("dim")
    if dim is None:  # as PyTorch chooses, with a warning
        return 0 if rank in (0, 1, 3) else 1
    return dim % rank


def _places(operation: Operation, position: Position) -> Indices:
    """(num_classes, num_dims), all positions that are normalised together with this one."""
    dim = _dim(operation)
    return places(*position[:dim], np.arange(operation.output_shape[dim]), *position[dim + 1 :])


def _explainer(*, is_log: bool) -> Explainer:
    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        operation, x = captured.operation, captured.operands["x"]
        dim = _dim(operation)
        scores = gathered("x", x, _places(operation, position))
        others = (*position[:dim], *position[dim + 1 :])
        largest = largest_of(indexed("max", others), operation.key, scores, captured.dtype)
        maximum = largest.computed
        z = sum_value(
            captured, indexed("Z", others), (product(exponential_factor("x", scores, maximum)),)
        )
        score = single("x", x, position)
        groups: tuple[Terms, ...]
        if is_log:
            groups = (
                product(score),
                product(derived_constant("-M", -maximum, "−{}", maximum)),
                product(derived_constant(r"-\ln Z", -math.log(z.computed), "−ln({})", z.computed)),
            )
        else:
            groups = (product(exponential_factor("x", score, maximum), one_over_z(z.computed)),)
        actual = float(captured.output[position])
        return largest, z, sum_value(captured, indexed("y", position), groups, actual)

    def input_gradient(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
        where = _places(captured.operation, position)
        number = position[_dim(captured.operation)]
        row = _ScoreRow(captured.operands["x"][tuple(where.T)])
        dl_dy, own = captured.dl_dy, single(DL_DY, captured.dl_dy, position)
        all_dl_dy = gathered(DL_DY, dl_dy, where)
        if is_log:
            groups = (product(own), product(all_dl_dy, row.one("-p_c", number)))
        else:
            through_sum = product(all_dl_dy, row.all("y", where), row.one("-y_c", number))
            groups = (product(own, row.one("y_c", number)), through_sum)
        actual = captured.gradient_at("x", position)
        return (sum_value(captured, indexed("dL/dx", position), groups, actual),)

    return Explainer(_log_formulas if is_log else _formulas, output, where_used(input_gradient))


_OTHER = "c'"  # a class of the row, where c is the one that is explained
_Z = r"Z = \sum_{c'=0}^{C-1} e^{x_{c'} - M}"
_WHERE = (
    rf"With $M = \max_{{c'}} x_{{c'}}$ and ${_Z}$, over the $C$ classes along the layer's "
    "dimension. $M$ cancels out; without it, large numbers would overflow."
)


def _formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y_c = \frac{e^{x_c - M}}{Z}", _WHERE),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', 'c')} = {gradient('y', 'c')} y_c - y_c \sum_{{c'=0}}^{{C-1}} "
            rf"{gradient('y', _OTHER)} y_{{c'}}",
            "Every output of the row depends on every score, by their common sum $Z$.",
        ),
    )


def _log_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula("y", r"y_c = x_c - M - \ln Z", _WHERE),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', 'c')} = {gradient('y', 'c')} - p_c \sum_{{c'=0}}^{{C-1}} "
            rf"{gradient('y', _OTHER)}",
            "$p_c = e^{y_c}$ is the probability of the class.",
        ),
    )


SOFTMAX = _explainer(is_log=False)
LOG_SOFTMAX = _explainer(is_log=True)

# Attention ----------------------------------------------------------------------------------------
# y = softmax(q k^T · scale + mask) v, over the last two dimensions.


class _Attention:
    """One head of one image: which the indices in front of the last two name."""

    def __init__(self, captured: Captured, front: Position) -> None:
        operation = captured.operation
        self.captured, self.front = captured, front
        self.q, self.k, self.v = (captured.operands[name][front] for name in "qkv")
        self.scale = _attention_scale(operation)
        self.mask = np.zeros((len(self.q), len(self.k)))
        if "mask" in operation.shapes:
            mask = captured.operands["mask"]
            if operation.arguments["attn_mask"].dtype.is_floating_point:
                added = mask
            else:
                added = np.where(mask != 0, 0.0, -np.inf)
            shape = (*captured.output.shape[:-1], len(self.k))
            self.mask = np.broadcast_to(added, shape)[front]
        elif operation.get("is_causal", False):
            self.mask = np.where(np.tri(*self.mask.shape) > 0, 0.0, -np.inf)
        scores = (self.q @ self.k.T) * self.scale + self.mask
        self.seen = np.isfinite(scores)
        self.scores = np.where(self.seen, scores, 0.0)
        self.maxima = np.max(scores, axis=1, initial=-np.inf, where=self.seen)
        exponentials = np.exp(scores - np.where(self.seen.any(axis=1), self.maxima, 0.0)[:, None])
        self.z = exponentials.sum(axis=1)
        self.p = exponentials / np.where(self.z > 0, self.z, 1.0)[:, None]

    def scale_factor(self) -> Factor:
        """Return the number that scores are multiplied by."""
        size = self.q.shape[-1]
        if self.captured.operation.get("scale") is None:
            return derived_constant(r"\frac{1}{\sqrt{E}}", self.scale, f"1/√({size})")
        return derived_constant("s", self.scale, notation.plain_number(self.scale))

    def score(self, query: int, key: int) -> Value:
        """Return the score of a query and a key."""
        inner = np.arange(self.q.shape[-1])
        groups = [
            product(
                gathered("q", self.captured.operands["q"], places(*self.front, query, inner)),
                gathered("k", self.captured.operands["k"], places(*self.front, key, inner)),
                self.scale_factor(),
            )
        ]
        if added := float(self.mask[query, key]):
            groups.append(product(derived_constant("m", added, notation.plain_number(added))))
        return sum_value(self.captured, indexed("s", (*self.front, query, key)), tuple(groups))

    def slopes(self, queries: Indices, keys: Indices) -> tuple[tuple[Factor, Factor], ...]:
        """Return the two products that dL/ds is the sum of, p·g and −p·G, of these pairs."""
        gains = self.captured.dl_dy[self.front] @ self.v.T
        own, whole = gains[queries, keys], (self.p * gains).sum(axis=1)[queries]
        share = self.share(queries, keys)
        g = Factor("g", own, places(*self.front, queries, keys))
        return (share, g), (share, Factor("-G", -whole, places(*self.front, queries)))

    def share(self, queries: Indices, keys: Indices) -> Factor:
        """Return p of these pairs."""
        factor = Factor("p", self.p[queries, keys], places(*self.front, queries, keys))
        columns = (self.scores[queries, keys], self.maxima[queries], self.z[queries])
        return derived(factor, PROBABILITY, *columns)

    def gain_values(self, query: int, key: int) -> tuple[Value, Value]:
        """Return g of a key, and G of the query: what y would gain, and gains on the whole."""
        captured, inner = self.captured, np.arange(self.v.shape[-1])
        dl_dy = gathered(DL_DY, captured.dl_dy, places(*self.front, query, inner))
        v = gathered("v", captured.operands["v"], places(*self.front, key, inner))
        y = gathered("y", captured.output, places(*self.front, query, inner))
        own = sum_value(captured, indexed("g", (*self.front, query, key)), (product(dl_dy, v),))
        whole = sum_value(captured, indexed("G", (*self.front, query)), (product(dl_dy, y),))
        return own, whole


def _attention_scale(operation: Operation) -> float:
    scale = operation.get("scale")
    return 1 / math.sqrt(operation.shapes["q"][-1]) if scale is None else float(scale)


def _attention_output(captured: Captured, position: Position) -> tuple[Value, ...]:
    *front, query, feature = position
    head, actual = _Attention(captured, tuple(front)), float(captured.output[position])
    keys, name = np.flatnonzero(head.seen[query]), indexed("y", position)
    if not len(keys):
        return (sum_value(captured, name, (), actual, "The mask hides every key."),)
    others, operation = (*front, query), captured.operation
    row = head.scores[query, keys]
    scores = Factor("s", row, places(*front, query, keys))
    largest = largest_of(indexed("max", others), operation.key, scores, captured.dtype)
    exponentials = exponential_factor("s", scores, largest.computed)
    z = sum_value(captured, indexed("Z", others), (product(exponentials),))
    v = gathered("v", captured.operands["v"], places(*front, keys, feature))
    y = sum_value(captured, name, (product(exponentials, one_over_z(z.computed), v),), actual)
    return head.score(query, int(keys[np.argmax(row)])), largest, z, y


def _attention_gradient(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
    *front, number, feature = position
    head = _Attention(captured, tuple(front))
    name, actual = indexed(f"dL/d{symbol}", position), captured.gradient_at(symbol, position)
    if symbol == "q":
        met = np.flatnonzero(head.seen[number])
        queries, keys, other = np.full(len(met), number), met, "k"
    else:
        met = np.flatnonzero(head.seen[:, number])
        queries, keys, other = met, np.full(len(met), number), "q"
    if not len(met):
        return (sum_value(captured, name, (), actual, "The mask hides it."),)
    if symbol == "v":
        dl_dy = gathered(DL_DY, captured.dl_dy, places(*front, queries, feature))
        return (sum_value(captured, name, (product(dl_dy, head.share(queries, keys)),), actual),)
    read = gathered(other, captured.operands[other], places(*front, met, feature))
    groups = tuple(
        product(*slope, read, head.scale_factor()) for slope in head.slopes(queries, keys)
    )
    steps = head.gain_values(int(queries[0]), int(keys[0]))
    return (*steps, sum_value(captured, name, groups, actual))


def _attention_first(operation: Operation, symbol: str, position: Position) -> Position:
    *front, query, feature = position
    if symbol == "q":
        return (*front, query, 0)
    return (*front, 0, feature if symbol == "v" else 0)


def _attention_formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
    batch = notation.leading(operation.output_shape, 2)
    mask = "mask" in operation.shapes or operation.get("is_causal", False)
    scale = r"\frac{1}{\sqrt{E}}" if operation.get("scale") is None else "s_0"
    given = operation.get("scale")
    seen = "Keys that the mask hides have no part in it." if mask else ""
    setting = "" if given is None else f"$s_0 = {notation.latex_number(float(given))}$."
    s, p = at("s", *batch, "i", "k"), at("p", *batch, "i", "k")
    q, v = at("q", *batch, "i", "e"), at("v", *batch, "k", "f")
    key, dl_ds = at("k", *batch, "k", "e"), gradient("s", *batch, "i", "k")
    added = " + m_{i, k}" if mask else ""
    dl_dy = gradient("y", *batch, "i", "f")
    keys, queries = summed("k", "K"), summed("i", "I")
    legend = notation.index_legend(
        batch=batch, query="i", key="k", feature_of_queries_and_keys="e", feature_of_values="f"
    )
    return (
        GeneralFormula("s", f"{s} = {scale} {summed('e', 'E')} {q} {key}{added}", setting),
        GeneralFormula(
            "p",
            rf"{p} = \frac{{e^{{{s} - M}}}}{{Z}}",
            "$M$ is the largest score of the query, "
            "$Z$ the sum of the exponentials of all its keys: softmax.",
        ),
        GeneralFormula("y", f"{at('y', *batch, 'i', 'f')} = {keys} {p} {v}", spaced(seen, legend)),
        GeneralFormula(
            "dL/ds",
            rf"{dl_ds} = {p} \left( {at('g', *batch, 'i', 'k')} - {at('G', *batch, 'i')} \right)",
            rf"With ${at('g', *batch, 'i', 'k')} = {summed('f', 'F')} {dl_dy} {v}$ and "
            rf"${at('G', *batch, 'i')} = {summed('f', 'F')} {dl_dy} {at('y', *batch, 'i', 'f')}$.",
        ),
        GeneralFormula(
            "dL/dq", f"{gradient('q', *batch, 'i', 'e')} = {scale} {keys} {dl_ds} {key}"
        ),
        GeneralFormula(
            "dL/dk", f"{gradient('k', *batch, 'k', 'e')} = {scale} {queries} {dl_ds} {q}"
        ),
        GeneralFormula("dL/dv", f"{gradient('v', *batch, 'k', 'f')} = {queries} {dl_dy} {p}"),
    )


def _refuses_attention(operation: Operation) -> str | None:
    q, k, v = (operation.shapes[name] for name in "qkv")
    if operation.get("dropout_p", 0.0):
        return "attention with dropout, whose draws are not seen"
    if not q[:-2] == k[:-2] == v[:-2]:
        return "attention whose heads are shared"
    if operation.has_twins:
        return "attention of a tensor and itself, whose gradients are not told apart"
    return None


ATTENTION = Explainer(
    _attention_formulas,
    _attention_output,
    where_used(_attention_gradient),
    _attention_first,
    _refuses_attention,
    input="q",
    others=("k", "v"),
)
