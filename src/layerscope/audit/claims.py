"""A file of claims: printed figures, what each claims, and an expression that says what is right.

No right value is stored. The file may come from anywhere: it holds text and arithmetic, runs no
code, and names a network in the words of the command line.
"""

import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from layerscope.audit.expressions import MAX_LENGTH
from layerscope.base.errors import UserError
from layerscope.config.problems import first_problem

MAX_BYTES = 2**20
_MEND = "give a file of claims, see docs/reference.md"

ClaimPlace = Literal["table", "text", "claim"]
_Text = Annotated[str, Field(max_length=2_000)]
_Printed = Annotated[str, Field(min_length=1, max_length=200)]
_Expression = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]
_Size = Annotated[int, Field(ge=1, le=2**31)]
_Layers = Annotated[tuple[str, ...], Field(max_length=1_000)]
# What shows a number: unit and decimals, `0.0 MB`.
_ShownNumber = tuple[_Expression, _Printed]


def _of_network(override: str) -> str:
    """A stranger's file chooses among our networks; which code of a user's runs says the user."""
    if not re.fullmatch(r"model(\.\w+)*=.*", override, re.DOTALL) or "${" in override:
        raise ValueError("write keys of model= as on the command line, such as model=lenet")
    if override == "model=custom" or override.startswith("model._target_"):
        raise ValueError("a class of your own is named on the command line, model._target_=")
    return override


class _ClaimsModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PrintedFigure(_ClaimsModel):
    """One printed figure.

    Args:
        at: where in its section it stands; of a table, row and column: `Conv1 / FLOPs`.
        says: what it claims to be.
        formula: the right value, over the quantities of the network.
        decimals: of the right value, where those of the printed figure would hide the difference.
    """

    at: _Text
    printed: _Printed
    formula: _Expression
    says: _Text = ""
    decimals: Annotated[int, Field(ge=0, le=12)] | None = None


class ClaimSection(_ClaimsModel):
    """Figures that stand together: a table, a page, a slide."""

    section: _Text
    place: ClaimPlace = "table"
    figures: Annotated[tuple[PrintedFigure, ...], Field(max_length=10_000)]


class Sentence(_ClaimsModel):
    """A claim that needs more than one figure to judge.

    Args:
        right: what holds instead, with `{name}` for each of the numbers; `why` likewise.
        numbers: name to expression and to a pattern that shows unit and decimals, `0.0 MB`.
    """

    claim: _Text
    right: _Text
    why: _Text = ""
    numbers: Mapping[str, _ShownNumber] = Field(default_factory=dict)


class Claims(_ClaimsModel):
    """A whole file.

    Args:
        network: keys of `model=`, as on the command line; empty: the command line names it.
        input_shape: with N.
        element_size: bytes of one number, in the textbook.
        layers: key and type of every layer of the network that the claims are about.
        identified_by: beginnings of the places whose figures all hold of that network.
        units: further units of printed figures, and other values for ours: `{"MB": 1000000}`.
        groups: name to layers, whose quantities are columns; `input` is a layer that only has an
            output.
        definitions: name to expression, over layers, groups and earlier definitions.
    """

    title: _Text = ""
    network: Annotated[
        tuple[Annotated[str, Field(max_length=1_000), AfterValidator(_of_network)], ...],
        Field(max_length=50),
    ] = ()
    input_shape: Annotated[tuple[_Size, ...], Field(min_length=1, max_length=8)]
    element_size: Literal[1, 2, 4, 8] = 4
    layers: Mapping[str, str] = Field(default_factory=dict)
    identified_by: tuple[str, ...] = ()
    units: Mapping[str, _Size] = Field(default_factory=dict)
    groups: Mapping[str, _Layers] = Field(default_factory=dict)
    definitions: Mapping[str, _Expression] = Field(default_factory=dict)
    sections: tuple[ClaimSection, ...]
    sentences: tuple[Sentence, ...] = ()

    @property
    def figures(self) -> tuple[tuple[ClaimSection, PrintedFigure], ...]:
        """All figures with their sections, in the file's order."""
        return tuple((section, figure) for section in self.sections for figure in section.figures)


def read_claims(path: Path) -> Claims:
    """Read a file of claims.

    Raises:
        UserError: it cannot be read, or is no file of claims.
    """
    if os.path.exists(path) and not path.is_file():  # to open a pipe would wait for ever
        raise UserError(f"{path} is no file: {_MEND}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {_MEND}") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES:,} bytes: split it")
    try:
        return Claims.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_problem(error)}") from error


def _problem(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"no JSON ({first['ctx']['error']}): {_MEND}"
    if not first["loc"]:
        return f"no JSON object: {_MEND}"
    return first_problem(error)


@cache
def walkthrough() -> Claims:
    """Return what the walkthrough of CifarCNN prints; it travels with the package."""
    content = files("layerscope.audit").joinpath("walkthrough.json").read_bytes()
    return Claims.model_validate_json(content)
