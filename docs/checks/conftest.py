"""Examples are small, so that compiling takes most of their time."""

import jax

jax.config.update("jax_disable_most_optimizations", True)
