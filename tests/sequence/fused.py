"""What tests of the fused recurrence share: points, the plain scan, and what program runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax.sequence.running.recurrence import FORMS, leaves_of

IN, H = 2, 3
# Rounding of float64, after a few dozen steps and two derivatives.
RTOL = 1e-11


@functools.cache
def build(name, seed=1):
    """A cell of the zoo, or a simple cell by the name of its activation; not to be changed."""
    if name in zoo.CELLS:
        return zoo.CELLS[name](IN, H, seed)
    return zoo.randomised(rj.SimpleRNNCell(IN, H, activation=name, rngs=nnx.Rngs(seed)), seed)


def point_at(name, steps, *batch, seed=1):
    """(cell, inputs, initial carry), all of them random."""
    cell = build(name, seed)
    xs = jnp.asarray(np.random.default_rng(seed).normal(size=(*batch, steps, IN)))
    return cell, xs, zoo.random_carry(cell, seed, *batch)


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def plain(cell, xs, carry):
    return jax.lax.scan(cell.step, carry, cell.project(xs))


RUNS = (rj.unroll, plain)


def loss(run, *point):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(run(*point)))


def assert_close(actual, expected, rtol=RTOL):
    """Equal up to rounding, which is measured by the largest entry of each leaf."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, e in pairs:
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * np.max(np.abs(e), initial=0))


# ---- What program runs.


def equations(jaxpr, inside=True):
    """(equation, the jaxprs inside it), over a whole program, recurrences lowered to scans.

    With or without projections inside of them, as on a CPU or elsewhere.
    """
    for eqn in jaxpr.eqns:
        values = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr"))
        bodies = [getattr(v, "jaxpr", v) for v in values]
        bodies = [body for body in bodies if hasattr(body, "eqns")]
        if eqn.primitive in FORMS:
            forms = FORMS[eqn.primitive]
            form = forms.on_cpu if inside else forms.elsewhere
            run = functools.partial(leaves_of, form, call=eqn.params["call"])
            bodies = [jax.make_jaxpr(run)(*(v.aval for v in eqn.invars)).jaxpr]
        yield eqn, bodies
        for body in bodies:
            yield from equations(body, inside)


def has_scan(jaxpr):
    return any(eqn.primitive.name == "scan" for eqn, _ in equations(jaxpr))


def is_fused(run, *args):
    """Whether a program holds a recurrence with a derivative of its own."""
    program = jax.make_jaxpr(run)(*args).jaxpr
    return any(eqn.primitive.name == "rnn_recurrence" for eqn, _ in equations(program))
