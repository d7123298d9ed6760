"""Biases of cells: whether there are any, and where they start."""

from typing import Any

from rnn_jax.checks import check_flag, check_number
from rnn_jax.initializers import Initializer, InitializerLike, get_initializer, sets_gates


def bias_initializer(
    use_bias: bool, bias_init: InitializerLike | None, default: InitializerLike | None = None
) -> Initializer | None:
    """The initialiser of biases: `bias_init`, or the default for None; None without biases.

    Args:
      use_bias: whether there are biases.
      bias_init: by name or callable; as the cell's default, it may stand beside use_bias=False.
      default: that of the cell, if it is other than "zeros".

    Raises:
      TypeError: `use_bias` is no bool, or `bias_init` no initialiser.
      ValueError: `bias_init` is an unknown name, or is given although there is no bias.
    """
    given: Any = default if bias_init is None else bias_init
    chosen = get_initializer("bias_init", given, "bias")
    if check_flag("use_bias", use_bias):
        return chosen
    if given != ("zeros" if default is None else default):
        raise ValueError(
            f"bias_init is of a bias, so there must be one; got {bias_init!r} with use_bias=False. "
            "Leave bias_init out, or pass use_bias=True."
        )
    return None


def offset_bias(
    cell: Any, name: str, offset: float, block: str, bias_init: InitializerLike, *, default: float
) -> None:
    """Adds to the initial biases of one of a cell's blocks what an option says.

    A `bias_init` that sets the gates by itself, such as `chrono`, takes the default's place.

    Args:
      cell: an `RNNCell`, whose `bias` is changed.
      name, offset: of the option, for messages, and what arrived for it.
      block: one of the cell's `blocks`.
      bias_init: what the cell was given.
      default: of the option, which may stand where there is nothing to add to.

    Raises:
      ValueError: it is not finite, or other than its default where there are no biases, or where
        `bias_init` sets the gates.
      TypeError: it is no number.
    """
    value = check_number(name, offset)
    if cell.bias is not None and sets_gates(bias_init):
        if value != default:
            raise ValueError(
                f"{name} must be left out where bias_init sets the gate by itself; got "
                f"{name}={value:g} beside bias_init={bias_init!r}. Drop one of the two."
            )
    elif cell.bias is not None:
        start = cell.blocks.index(block) * cell.hidden_features
        values = cell.bias[...]
        cell.bias[...] = values.at[start : start + cell.hidden_features].add(value)
    elif value not in (0, default):
        raise ValueError(
            f"{name} is where a bias starts, so there must be one; got {name}={value:g} with "
            f"use_bias=False. Leave {name} out, or pass use_bias=True."
        )
