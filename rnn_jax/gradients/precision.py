"""The one place where the instrument's programs are compiled, and where their precision is set.

On accelerators float32 products are TF32 or bfloat16 unless told otherwise, which is off by 1e-3:
enough for training, not for an instrument. So whatever `jax_default_matmul_precision` says, the
trajectory, the one-step Jacobians and all that is built on them are products in full precision.
A product for which a cell itself names a precision keeps that.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

FULL = "highest"


def full_precision() -> Any:
    """A context in which products that name no precision are computed in full."""
    return jax.default_matmul_precision(FULL)


def compiled(
    function: Callable[..., Any], *, static: Sequence[str] = (), marks_unknown: bool = False
) -> Any:
    """`jax.jit` of a part of the instrument, traced at full precision.

    Args:
      function: pure, of pytrees.
      static: names of its arguments that are no arrays.
      marks_unknown: its results say by NaN what cannot be known, which is no alarm to
        `jax.debug_nans`.
    """

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with full_precision():
            return function(*args, **kwargs)

    program = jax.jit(traced, static_argnames=tuple(static))
    if not marks_unknown:
        return program

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.debug_nans(False):
            return program(*args, **kwargs)

    return call
