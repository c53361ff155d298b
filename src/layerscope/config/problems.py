"""What is wrong with a value of a configuration, in one line."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from layerscope.base.errors import UserError

QUOTE = "'"  # around names in pydantic's messages
GROUPS_WITH_VARIANTS = ("model", "data", "optimizer", "scheduler", "loss")
GROUPS_OF_ONES_OWN = ("model", "data", "optimizer", "scheduler")  # each has an option `custom`


_Schema = TypeVar("_Schema", bound=BaseModel)


def parse(schema: type[_Schema], values: Mapping[str, Any]) -> _Schema:
    """Return the values as this part of a configuration.

    Raises:
        UserError: the first key that is wrong, by name.
    """
    try:
        return schema.model_validate(frozen(dict(values)))
    except ValidationError as error:
        raise UserError(first_problem(error)) from error


def frozen(value: Any) -> Any:
    """Turn lists into tuples, all the way down: YAML has no tuples, a frozen section no lists."""
    if isinstance(value, dict):
        return {key: frozen(member) for key, member in value.items()}
    if isinstance(value, list):
        return tuple(frozen(member) for member in value)
    return value


def first_problem(error: ValidationError) -> str:
    """Return one line: key, value given, what is allowed, and how many more problems there are."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    key = _key(problem["loc"])
    line = f"{key}={as_typed(problem['input'])}: {_in_words(problem['msg'])}"
    if problem["type"] == "missing":
        line = f"{key} is missing: give it"
    elif problem["type"] == "extra_forbidden":
        line = misplaced_target(key) or f"{key} is not a key: remove it or correct its name"
    elif problem["type"].startswith("union_tag_"):
        line = _unknown_variant(key, problem["type"], problem.get("ctx", {}))
    more = len({_key(other["loc"]) for other in problems} - {key})
    return line + (f" (and {more} more)" if more else "")


def misplaced_target(key: str) -> str:
    """Return the message for a class that is named where none is taken; '' for other keys."""
    group, _, name = key.rpartition(".")
    if name != "_target_":
        return ""
    if group in GROUPS_OF_ONES_OWN:
        return f"{key} names a class of your own, for {group}=custom: choose that, or leave it out"
    return (
        f"{key} is not taken: {', '.join(GROUPS_OF_ONES_OWN)} take a class of your own, "
        "with GROUP=custom GROUP._target_=module.Class, and so do the lists callbacks.extra and "
        "metrics.extra"
    )


def as_typed(value: object) -> str:
    """Return a value as a user writes it on the command line, shortened if it is long."""
    text = as_typed_in_full(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_typed_in_full(value: object) -> str:
    """Return a value as a user writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_typed_in_full, value))}]"
    if isinstance(value, dict):
        return (
            f"{{{','.join(f'{key}:{as_typed_in_full(member)}' for key, member in value.items())}}}"
        )
    return str(value)


def _unknown_variant(key: str, problem: str, context: Mapping[str, Any]) -> str:
    """Return the line for a section whose name is missing or unknown."""
    name = f"{key}.{context['discriminator'].strip(QUOTE)}"
    if problem == "union_tag_not_found":
        return f"{name} is missing: give it"
    expected = context["expected_tags"].replace(QUOTE, "")
    return f"{name}={as_typed(context['tag'])}: choose one of {expected}"


def _key(location: tuple[int | str, ...]) -> str:
    """Return the key as a user writes it, without a variant's name and the type of a union."""
    parts = list(location)
    if len(parts) > 2 and parts[0] in GROUPS_WITH_VARIANTS:
        del parts[1]
    return ".".join(str(part) for part in parts if not _names_a_type(part))


def _names_a_type(part: int | str) -> bool:
    return isinstance(part, str) and (
        part in ("int", "float", "bool", "constrained-int") or "[" in part
    )


def _in_words(text: str) -> str:
    """Return pydantic's message without its own words."""
    text = text.removeprefix("Value error, ").partition(" or instance of ")[0]
    text = text.replace("tuple", "list").replace("a valid dictionary", "keys and values")
    return text[:1].lower() + text[1:].replace(" after validation", "")
