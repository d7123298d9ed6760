"""Training on own data, and the same by a plain loop."""

import jax
import jax.numpy as jnp
import optax

import rnn_jax as rj
from training import toys

# Stretches of one length, so one program; an epoch ends within the second of them.
PACE = {"steps": 6, "seed": 5, "evaluate_every": 2, "evaluation_size": 4}
SIZE = 4
RATE = optax.adam(0.05)


def fit(task, directory=None, **options):
    if not isinstance(task, rj.tasks.Loader):
        options = {"batch_size": SIZE, **options}
    model = options.pop("model", None) or toys.linear()
    return rj.fit(model, task, RATE, directory=directory, **{**PACE, **options})


@jax.jit
def advance(model, state, xs, ys):
    def loss(model):
        return jnp.mean(jnp.sum(jnp.square(model(xs) - ys), axis=-1))

    value, gradient = jax.value_and_grad(loss)(model)
    updates, state = RATE.update(gradient, state, model)
    return optax.apply_updates(model, updates), state, value


def plain_loop(pairs):
    """(model, loss) after each step, one after another, by hand."""
    model = toys.linear()
    with toys.relaxed():
        state = RATE.init(model)
        for xs, ys in pairs:
            model, state, value = advance(model, state, xs, ys)
            yield model, float(value)
