"""The type checker that pytest puts on every function of the four packages.

Only annotations that speak of shapes (jaxtyping's) are enforced, by beartype: plain ones would make
the tests of our own error messages impossible, and ducks unwelcome.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_shapes(function: Callable) -> Callable:
    """Decorate a function so that calls with wrong shapes or dtypes raise."""
    hints = getattr(function, "__annotations__", {})
    shapes = {name: hint for name, hint in hints.items() if _speaks_of_shapes(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    checked = _check(function)
    function.__annotations__ = hints
    return checked


def _speaks_of_shapes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_speaks_of_shapes(inner) for inner in get_args(hint))
