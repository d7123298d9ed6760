"""The fused recurrence against the plain scan of the same cell, however it is differentiated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import rnn_jax as rj
import zoo
from rnn_jax.activations import ACTIVATIONS
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


FUSED = ["lstm", "lstm_coupled", "lstm_1997", "gru_reset_after", "gru_reset_before", *ACTIVATIONS]


@pytest.mark.parametrize("name", [*FUSED, "lstm_peephole"])
def test_which_cells_run_in_fused_form(name):
    assert is_fused(rj.unroll, *point_at(name, 5)) == (name in FUSED)
    assert not is_fused(plain, *point_at(name, 5))


# ---- Every mode of differentiation.


def flattened(run, point):
    """(the run as a function of one vector, the loss as one, where they are taken)."""
    vector, unravel = ravel_pytree(point)

    def outputs(vector):
        return ravel_pytree(run(*unravel(vector)))[0]

    return outputs, lambda vector: jnp.sum(jnp.sin(outputs(vector))), vector


# (f, loss = Σ sin f, v, direction d) -> a derivative, and the same from f, its Jacobian J and the
# Hessian K of the loss.
MODES = {
    "values": (lambda f, _, v, d: f(v), lambda y, J, K, d: y),
    "grad": (lambda _, s, v, d: jax.grad(s)(v), lambda y, J, K, d: np.cos(y) @ J),
    "jvp": (lambda f, _, v, d: jax.jvp(f, (v,), (d,))[1], lambda y, J, K, d: J @ d),
    "jacfwd": (lambda f, _, v, d: jax.jacfwd(f)(v), lambda y, J, K, d: J),
    "jacrev": (lambda f, _, v, d: jax.jacrev(f)(v), lambda y, J, K, d: J),
    "hessian": (lambda _, s, v, d: jax.hessian(s)(v), lambda y, J, K, d: K),
    "jvp_of_grad": (
        lambda _, s, v, d: jax.jvp(jax.grad(s), (v,), (d,))[1],
        lambda y, J, K, d: K @ d,
    ),
    "grad_of_jvp": (
        lambda _, s, v, d: jax.grad(lambda v: jax.jvp(s, (v,), (d,))[1])(v),
        lambda y, J, K, d: K @ d,
    ),
    "grad_of_grad": (
        lambda _, s, v, d: jax.grad(lambda v: jnp.vdot(jax.grad(s)(v), d))(v),
        lambda y, J, K, d: K @ d,
    ),
}

# What the other modes are made of, for a cell of several kernels.
FEW = ["values", "jacfwd", "jacrev", "hessian"]
SWEPT = {"lstm": list(MODES), "gru_reset_after": FEW}


@functools.cache
def results_by_mode(name):
    """{mode: (by the fused recurrence, by the plain scan)}."""
    point = point_at(name, 5)
    f, scalar, v = flattened(rj.unroll, point)
    d = random_like(v)
    modes = {mode: MODES[mode] for mode in SWEPT[name]}
    actual = jax.jit(lambda v: {mode: run(f, scalar, v, d) for mode, (run, _) in modes.items()})(v)
    f, scalar, v = flattened(plain, point)
    reference = jax.jit(lambda v: (f(v), jax.jacrev(f)(v), jax.hessian(scalar)(v)))(v)
    y, J, K = map(np.asarray, reference)
    return {mode: (actual[mode], expect(y, J, K, d)) for mode, (_, expect) in modes.items()}


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, modes in SWEPT.items() for mode in modes]
)
def test_every_mode_of_differentiation(name, mode):
    assert_close(*results_by_mode(name)[mode])


# 37 steps are two chunks and a rest; 5 are less than one.
STEPS = {"tanh": 37}


@pytest.mark.parametrize("name", [name for name in FUSED if name not in SWEPT])
def test_values_gradient_and_tangents_of_both(name):
    point = point_at(name, STEPS.get(name, 5))
    along = random_like(point)

    def results(run):
        """The results and the gradient of all that they hang on, and the tangents of both."""

        def value(*point):
            found = run(*point)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found)), found

        return jax.jvp(jax.value_and_grad(value, (0, 1, 2), has_aux=True), point, along)

    assert_close(*jax.jit(lambda: [results(run) for run in RUNS])())


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hard_tanh", "softsign"])
def test_slopes_at_a_kink_are_those_of_the_plain_scan(name):
    # All pre-activations are at 0, or at the upper kink of the hard tanh.
    point = jax.tree.map(jnp.zeros_like, point_at(name, 3))

    @jax.jit
    def gradients(point):
        return [jax.grad(functools.partial(loss, run), (0, 1, 2))(*point) for run in RUNS]

    for bias in (0.0, 1.0):
        point[0].bias[...] = jnp.full(H, bias)
        assert_close(*gradients(point))


EVERYTHING = (0, 1, 2)


@jax.jit
def plain_and_gradient(point):
    return plain(*point), jax.grad(functools.partial(loss, plain), EVERYTHING)(*point)


@pytest.mark.parametrize("axes", [(None, 0, 0), (0, None, None)], ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after"])
def test_vmap_over_sequences_and_cells_and_grad_in_either_order(name, axes):
    points = [point_at(name, 5, seed=seed) for seed in (1, 2, 3)]
    shared, members = points[0], []
    for point in points:
        chosen = zip(shared, point, axes, strict=True)
        members.append([mine if axis == 0 else ours for ours, mine, axis in chosen])
    stacked = [
        jax.tree.map(lambda *leaves: np.stack(leaves), *parts) if axis == 0 else parts[0]
        for parts, axis in zip(zip(*members, strict=True), axes, strict=True)
    ]

    @jax.jit
    def fused(point):
        scalar = functools.partial(loss, rj.unroll)

        def total(*point):
            return jnp.sum(jax.vmap(scalar, axes)(*point))

        grad_of_vmap = jax.grad(total, EVERYTHING)(*point)
        vmap_of_grad = jax.vmap(jax.grad(scalar, EVERYTHING), axes)(*point)
        return jax.vmap(rj.unroll, axes)(*point), vmap_of_grad, grad_of_vmap

    expected = [plain_and_gradient(tuple(member)) for member in members]
    values, gradients = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
    summed = [
        part if axis == 0 else jax.tree.map(lambda a: a.sum(axis=0), part)
        for part, axis in zip(gradients, axes, strict=True)
    ]
    assert_close(fused(stacked), (values, gradients, summed))


# LSTM: one kernel. GRU: a weight of its own enters some of three kernels, and others not; or some
# weights meet the state in a first stage, some in a second.
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "gru_reset_before"])
def test_differentiating_by_one_array_alone(name):
    leaves, structure = jax.tree.flatten(point_at(name, 5))
    directions = random_like(leaves)

    def along(index, run):
        """The run as a function of one array, all others being constants."""

        def function(leaf):
            return run(
                *jax.tree.unflatten(structure, [*leaves[:index], leaf, *leaves[index + 1 :]])
            )

        return function

    @jax.jit
    def alone():
        gradients, tangents = [], []
        for index, (leaf, d) in enumerate(zip(leaves, directions, strict=True)):
            f = along(index, rj.unroll)
            gradients.append(jax.grad(functools.partial(loss, f))(leaf))
            tangents.append(jax.jvp(f, (leaf,), (d,))[1])
        return gradients, tangents

    def run(*leaves):
        return plain(*jax.tree.unflatten(structure, leaves))

    everything = tuple(range(len(leaves)))
    gradients, tangents = alone()
    assert_close(gradients, jax.jit(jax.grad(functools.partial(loss, run), everything))(*leaves))
    tangent = jax.jit(lambda d: jax.jvp(run, leaves, d)[1])
    for index, actual in enumerate(tangents):
        only = [d if k == index else jnp.zeros_like(d) for k, d in enumerate(directions)]
        assert_close(actual, tangent(only))


# ---- Cells that the fused form does not describe.


@jax.jit
def one_step(cell, carry, x):
    return cell(carry, x)


def by_loop(cell, xs, carry):
    """(last, ys, carries), one call of the cell after another."""
    outputs = []
    for x in np.asarray(xs):
        carry, y = one_step(cell, carry, x)
        outputs.append((y, carry))
    return (carry, *jax.tree.map(lambda *leaves: np.stack(leaves), *outputs))


class HalvedStep(rj.LSTMCell):
    def step(self, carry, z):
        (c, h), y = super().step(carry, z)
        return (c, 0.5 * h), y


class ShiftedProjection(rj.GRUCell):
    def project(self, x):
        return super().project(x) + 1.0


class LouderCall(rj.SimpleRNNCell):
    def __call__(self, carry, x):
        h, y = super().__call__(carry, x)
        return h, 2 * y


class Leaking:
    def step(self, carry, z):
        h, y = super().step(carry, z)
        return 0.9 * h, y


class ByMixin(Leaking, rj.SimpleRNNCell):
    pass


class ByInheritance(HalvedStep):
    pass


def step_of_its_own():
    cell = rj.SimpleRNNCell(IN, H, rngs=nnx.Rngs(1))
    own = cell.step
    cell.step = lambda carry, z: own(0.5 * carry, z)
    return cell


CHANGED = [HalvedStep, ShiftedProjection, LouderCall, ByMixin, ByInheritance]


@pytest.mark.parametrize("make", [*CHANGED, step_of_its_own], ids=lambda make: make.__name__)
def test_a_changed_cell_is_not_run_in_its_parents_form(make):
    cell = make() if make is step_of_its_own else make(IN, H, rngs=nnx.Rngs(1))
    _, xs, _ = point_at("tanh", 5)
    carry = zoo.random_carry(cell, 1)
    assert not is_fused(lambda xs: rj.unroll(cell, xs, carry), xs)
    assert_close(rj.unroll(cell, xs, carry, return_carries=True), by_loop(cell, xs, carry))


class Renamed(rj.GRUCell):
    """Changes nothing that the form describes."""

    def gates(self, carry, x):
        return {f"{name} gate": gate for name, gate in super().gates(carry, x).items()}


def test_a_subclass_that_keeps_the_step_keeps_the_form():
    cell = Renamed(IN, H, rngs=nnx.Rngs(1))
    assert is_fused(rj.unroll, cell, jnp.ones((5, IN)))


def user_activations(weight):
    """Activations that use a weight: mixing units, closed over, and bound as an argument."""
    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=weight)
    return {
        "mixing": lambda u: jax.nn.softmax(weight * u, axis=-1),
        "callable": lambda u: jnp.tanh(weight * u),
        "activation": rj.Activation("mine", lambda u: jnp.sin(weight * u), (-1.0, 1.0)),
        "leaky_callable": leaky,
        "leaky_activation": rj.Activation("my leaky", leaky, (0.0, 1.0)),
    }


@pytest.mark.parametrize("kind", user_activations(1.0))
def test_an_activation_of_the_users_may_hold_weights(kind):
    _, xs, carry = point_at("tanh", 3)

    def with_weight(run, weight):
        activation = user_activations(weight)[kind]
        cell = rj.SimpleRNNCell(IN, H, activation=activation, rngs=nnx.Rngs(1))
        return loss(run, cell, xs, carry)

    def by_calls(cell, xs, carry):
        return jax.lax.scan(cell, carry, xs)

    at = jnp.asarray(0.3)
    actual, expected = (functools.partial(with_weight, run) for run in (rj.unroll, by_calls))
    jitted = jax.jit(lambda at: [jax.value_and_grad(run)(at) for run in (actual, expected)])
    found, known = jitted(at)
    assert_close(found, known)
    assert_close(jax.value_and_grad(actual)(at), known)


# (parameters, computation, inputs)
TYPES = [
    ("float32", None, "float64"),
    ("float64", None, "float32"),
    ("float32", "float32", "float64"),
    ("float64", "float32", "float32"),
    ("float32", "bfloat16", "float32"),
    ("float32", None, "bfloat16"),
    ("float32", None, "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
]


# All of them for one cell, and for one with a bias of its own those that are rounded.
SWEPT_TYPES = [(rj.LSTMCell, *types) for types in TYPES]
SWEPT_TYPES += [(rj.GRUCell, *types) for types in TYPES[3:6]]


@pytest.mark.parametrize(("make", "param_dtype", "dtype", "input_dtype"), SWEPT_TYPES)
def test_mixed_types_step_as_by_hand(make, param_dtype, dtype, input_dtype):
    cell = make(IN, H, param_dtype=param_dtype, dtype=dtype, rngs=nnx.Rngs(1))
    xs = point_at("tanh", 3)[1].astype(input_dtype)
    with jax.numpy_dtype_promotion("standard"):
        actual = rj.unroll(cell, xs, return_carries=True)
        expected = by_loop(cell, xs, cell.initialize_carry((IN,)))
    types = [jax.tree.map(lambda a: a.dtype.name, tree) for tree in (actual, expected)]
    assert types[0] == types[1]
    # A few roundings in each step, in the coarsest type that takes part.
    coarsest = max(jnp.finfo(kind).eps for kind in (param_dtype, input_dtype, dtype or input_dtype))
    assert_close(actual, expected, rtol=4 * len(xs) * float(coarsest))
