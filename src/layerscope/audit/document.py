"""The walkthrough as data: its figures, where they stand, what they claim, and the formulas.

No right value is stored: a formula names quantities of the cost table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

Place = Literal["table", "text", "claim"]


@dataclass(frozen=True)
class Figure:
    """One printed figure.

    Args:
        where: section (or table), item (or row), quantity (or column).
        decimals: of the right value, where those of the printed figure would hide the difference.
    """

    place: Place
    where: str
    printed: str
    says: str
    formula: str
    decimals: int | None = None


@dataclass(frozen=True)
class Sentence:
    """A claim that needs more than one figure to judge.

    Args:
        right: with `{name}` for each of the numbers, as `why`.
        numbers: name to (formula, pattern); the pattern shows unit and decimals, `0.0 MB`.
        needs: the constant without which the sentence is left out.
        unless: the constant with which it is left out.
    """

    claim: str
    right: str
    why: str
    numbers: Mapping[str, tuple[str, str]]
    needs: str | None = None
    unless: str | None = None


@dataclass(frozen=True)
class Document:
    """All of it, with the names that the formulas use beside those of the cost table."""

    input_shape: tuple[int, ...]
    element_size: int
    groups: Mapping[str, tuple[str, ...]]
    definitions: Mapping[str, str]
    figures: tuple[Figure, ...]
    sentences: tuple[Sentence, ...]


def read_walkthrough() -> Document:
    """The document that ships with the package."""
    text = files("layerscope.audit").joinpath("walkthrough.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return Document(
        input_shape=tuple(data["input_shape"]),
        element_size=data["element_size"],
        groups={name: tuple(layers) for name, layers in data["groups"].items()},
        definitions=data["definitions"],
        figures=tuple(
            _figure(section["section"], section["place"], **figure)
            for section in data["sections"]
            for figure in section["figures"]
        ),
        sentences=tuple(_sentence(**sentence) for sentence in data["sentences"]),
    )


def _figure(section: str, place: Place, *, at: str, **fields: Any) -> Figure:
    return Figure(place=place, where=f"{section} / {at}", **fields)


def _sentence(*, numbers: Mapping[str, list[str]], **texts: Any) -> Sentence:
    pairs = {name: (formula, pattern) for name, (formula, pattern) in numbers.items()}
    return Sentence(**texts, numbers=pairs)
