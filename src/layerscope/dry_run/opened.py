"""Functions of torch that are written in Python, in a form that shows what they call."""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any


@cache
def opened(function: Callable[..., Any]) -> FunctionType | None:
    """Return the function without its check for overrides, so that a mode sees what it calls.

    Functions of torch that are written in Python first check whether something overrides them. If
    the answer is no, their body runs and a function mode sees each function that it calls. None for
    a function without this check, or a compiled one.
    """
    if not isinstance(function, FunctionType):
        return None
    questions = {
        name
        for name in function.__code__.co_names
        if name.startswith("has_torch_function") and name in function.__globals__
    }
    if not questions:
        return None
    answers = dict.fromkeys(questions, lambda *_: False)
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **answers},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
