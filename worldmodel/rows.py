"""Rows of values made of tensors: taken, replaced and chosen, whatever the value's class.

A value is a tensor with its rows first, or a dataclass, named tuple or list of values. What else
stands in it (None, a number that all rows share) is left as it is.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

Value = TypeVar("Value")


def take(value: Value, rows: Int64[Tensor, " chosen"]) -> Value:
    """Some rows, any of them more than once: a copy."""
    return _map(lambda own: own[rows.to(own.device)], value)


def put(value: Value, rows: Int64[Tensor, " chosen"], other: Value) -> Value:
    """A copy with some rows replaced by those of `other`, in the order of `rows`."""
    return _map(lambda own, new: own.index_copy(0, rows.to(own.device), new.to(own)), value, other)


def choose(mask: Bool[Tensor, " rows"], yes: Value, no: Value) -> Value:
    """Row by row: `yes` where the mask is True, `no` elsewhere."""

    def where(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *(1,) * (one.ndim - 1)), one, other)

    return _map(where, yes, no)


def shapes(value: Any, name: str = "") -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a value, without its rows, by the names that lead there."""
    if isinstance(value, Tensor):
        return {name: tuple(value.shape[1:])}
    parts: dict[str, Any] = {}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(value, list):
        parts = {str(number): part for number, part in enumerate(value)}
    found: dict[str, tuple[int, ...]] = {}
    for key, part in parts.items():
        found |= shapes(part, f"{name}.{key}".lstrip("."))
    return found


def _map(function: Callable[..., Tensor], *values: Any) -> Any:
    """Apply a function to every tensor, together with those at its place in the other values."""
    first = values[0]
    if isinstance(first, Tensor):
        return function(*values)
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        parts = {name: _map(function, *(getattr(v, name) for v in values)) for name in names}
        return replace(first, **parts)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_map(function, *parts) for parts in zip(*values, strict=True)))
    if isinstance(first, list):
        return [_map(function, *parts) for parts in zip(*values, strict=True)]
    return first
