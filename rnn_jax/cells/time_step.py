"""What cells that discretise a differential equation have in common: steps that are positive."""

from typing import Any

from rnn_jax.checks import check_number


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
