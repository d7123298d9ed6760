"""Checks of plain values, whose messages state the rule, what arrived and the fix."""

from collections.abc import Iterable
from typing import Any


def check_size(name: str, value: Any) -> int:
    """Returns `value` if it is a whole number of at least 1, else raises."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"{name} must be a whole number; got {value!r} of type {type(value).__name__}. "
            f"Pass an int, for example {name}=64."
        )
    size = int(value.__index__())
    if size < 1:
        raise ValueError(f"{name} must be at least 1; got {size}. Pass a positive int.")
    return size


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of the names in `choices`, else raises."""
    known = sorted(choices)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}.")
    return value
