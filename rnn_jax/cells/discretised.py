"""What cells that discretise a differential equation share: steps above 0, uniform weights."""

import functools
from typing import Any

import jax

from rnn_jax.checks import check_number
from rnn_jax.initializers import Initializer


def check_positive(name: str, value: Any) -> float:
    """Returns `value` as a float if it is one finite number above 0, else raises."""
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be positive; got {number}. Pass a float above 0.")
    return number


def check_not_negative(name: str, value: Any) -> float:
    """Returns `value` as a float if it is one finite number of at least 0, else raises."""
    number = check_number(name, value)
    if number < 0:
        raise ValueError(f"{name} must be at least 0; got {number}. Pass 0.0 or a positive float.")
    return number


def uniform_to(bound: float) -> Initializer:
    """An initialiser: uniform between ±bound."""
    return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
