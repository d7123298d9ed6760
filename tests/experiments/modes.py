"""The mode of JAX that experiments run in."""

import contextlib

import jax


@contextlib.contextmanager
def ordinary_mode():
    """JAX's ordinary mode; optax does not pass the strict one."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
