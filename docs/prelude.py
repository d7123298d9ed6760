"""What every example in a docstring starts from; the reference shows it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rnn_jax as rj

cell = rj.GRUCell(2, 8, rngs=nnx.Rngs(0))
xs = jax.random.normal(jax.random.key(1), (20, 2))  # (time, features)

__all__ = ["cell", "jax", "jnp", "nnx", "np", "optax", "rj", "xs"]
