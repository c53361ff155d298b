"""Functions of torch that are written in Python, opened: what they call is seen one by one."""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any


@cache
def opened(function: Callable[..., Any]) -> FunctionType | None:
    """Return the function without the question that hands it to a function mode.

    Functions of torch that are written in Python ask first whether somebody overrides them. With
    the answer no, their body runs, and the functions that it calls are seen one by one. None where
    the function does not ask, or is compiled.
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
