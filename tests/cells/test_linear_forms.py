"""Cells that are linear in their carry say so truly, and only where they are."""

import inspect
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claiming import IN, XS, H, assert_linear_form_is_the_step, random_carry
from flax import nnx
from jax import lax

import rnn_jax as rj
from refusing import refuses
from rnn_jax.cells import linear
from rnn_jax.cells.linear import linear_form, linear_form_for
from rnn_jax.gradients.jacobians.propagation import StepMatrices
from rnn_jax.gradients.linearize import Record
from rnn_jax.testing.subject import own_jacobians

LINEAR = {
    "min_gru": (rj.MinGRUCell, {}),
    "min_lstm": (rj.MinLSTMCell, {"positive_candidate": False}),
    "rg_lru": (rj.RGLRUCell, {"num_blocks": 3}),
    "lru": (rj.LRUCell, {}),
    "lru_skip": (rj.LRUCell, {"out_features": IN}),
    "s5": (rj.S5Cell, {}),
    "s5_stable": (rj.S5Cell, {"stable": True, "out_features": IN}),
    "simple": (rj.SimpleRNNCell, {"activation": "identity"}),
    "leaky": (rj.LeakyIntegratorCell, {"activation": "identity", "learn_time_constant": True}),
    "indrnn": (rj.IndRNNCell, {"activation": "identity"}),
    "echo_state": (rj.EchoStateCell, {"activation": "identity", "leak_rate": 0.5}),
    "exp_rnn": (rj.ExpRNNCell, {"use_bias": False}),
    "sco_rnn": (rj.ScoRNNCell, {"use_bias": False}),
    "unitary": (rj.UnitaryRNNCell, {"use_bias": False}),
}
OF_GATES = {"min_gru", "min_lstm", "rg_lru", "lru", "lru_skip", "s5_stable"}
CONTRACTS = OF_GATES | {"exp_rnn", "sco_rnn", "unitary"}


def build(name, scale=1.0, **more):
    """The cell, its weights scaled and moved by noise."""
    make, options = LINEAR[name]
    cell = make(IN, H, rngs=nnx.Rngs(0), **options, **more)
    rng = np.random.default_rng(0)

    def moved(w):
        return jnp.asarray(scale * (np.asarray(w) + 0.3 * rng.normal(size=w.shape)), w.dtype)

    return jax.tree.map(moved, cell)


def example():
    """The class that the docstring of `rnn_jax.cells.linear` shows, and its source."""
    text = inspect.cleandoc(linear.__doc__)
    start = text.index("    class Smoothing")
    source = textwrap.dedent(text[start : text.index("\nz is x itself")])
    scope = {"nnx": nnx, "jax": jax, "jnp": jnp, "rj": rj}
    exec(source, scope)
    return scope["Smoothing"], source


class Rotations(nnx.Module):
    """n planes, each turned by its own angle: a block-diagonal Λ."""

    def __init__(self, planes):
        self.angles = nnx.Param(jnp.linspace(0.1, 2.0, planes))

    def initialize_carry(self, input_shape):
        return jnp.zeros((*input_shape[:-1], 2 * self.angles.shape[0]))

    def __call__(self, carry, x):
        factor, added = self.transition(x)
        h = jnp.einsum("...ij,...j->...i", factor, self.pack(carry)) + added
        return self.unpack(h), jnp.tanh(self.unpack(h))

    def transition(self, x):
        """Turned by the angle, and pushed by the input along the first axis."""
        cos, sin = jnp.cos(self.angles[...]), jnp.sin(self.angles[...])
        turns = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
        turns = turns.reshape((1,) * (x.ndim - 1) + turns.shape)
        pushed = jnp.broadcast_to(jnp.sum(x, -1)[..., None], (*x.shape[:-1], turns.shape[-3]))
        return turns, jnp.stack([pushed, 0 * pushed], -1)

    def pack(self, carry):
        return carry.reshape(*carry.shape[:-1], -1, 2)

    def unpack(self, packed):
        return packed.reshape(*packed.shape[:-2], -1)

    def linear_form(self):
        return rj.LinearForm(
            "block",
            self.transition,
            output=lambda carry, z: jnp.tanh(carry),
            pack=self.pack,
            unpack=self.unpack,
            contracts=True,
        )


@pytest.mark.parametrize("name", [*LINEAR, "smoothing", "rotations"])
def test_what_is_said_is_true_of_the_step(name):
    own = {"smoothing": lambda: example()[0](IN), "rotations": lambda: Rotations(2)}
    cell = own[name]() if name in own else build(name)
    carry = jax.tree.map(jnp.asarray, random_carry(cell))
    form = linear_form(cell)
    assert isinstance(linear_form_for(cell, XS[0], carry), rj.LinearForm)
    assert form.contracts == (name in CONTRACTS | set(own))
    assert_linear_form_is_the_step(cell, carry, XS[0])


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_what_contracts_does_so_whatever_the_weights(name):
    xs = np.stack([XS[0], 100 * np.asarray(XS[1])])
    for scale in (-10.0, 10.0):
        cell = build(name, scale)
        carries = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), random_carry(cell))
        for a in np.asarray(own_jacobians(cell, carries, xs)):
            assert np.linalg.norm(a, 2) <= 1 + 1e-12


def test_the_example_is_short():
    assert len(example()[1].strip().splitlines()) <= 20


@pytest.mark.parametrize(
    "cell",
    [
        rj.SimpleRNNCell(IN, H, rngs=nnx.Rngs(0)),
        rj.IndRNNCell(IN, H, activation=lambda u: u, rngs=nnx.Rngs(0)),
        rj.LeakyIntegratorCell(IN, H, rngs=nnx.Rngs(0)),
        rj.LSTMCell(IN, H, rngs=nnx.Rngs(0)),
        rj.MLSTMCell(IN, H, rngs=nnx.Rngs(0)),
        rj.Zoneout(build("min_gru"), 0.3),
        rj.StackedCell([build("min_gru")]),
        # Of bfloat16 products in a float32 carry, weights say the Jacobian up to rounding only.
        build("simple", dtype=jnp.bfloat16, carry_dtype=jnp.float32, param_dtype=jnp.float32),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_what_is_not_linear_or_not_known_to_be_says_nothing(cell):
    assert linear_form(cell) is None


def test_a_subclass_with_another_step_has_no_form():
    class Halved(rj.MinGRUCell):
        def step(self, carry, z):
            h, y = super().step(carry, z)
            return 0.5 * jnp.tanh(h), y

    class Renamed(rj.MinGRUCell):
        pass

    assert linear_form(Halved(IN, H, rngs=nnx.Rngs(0))) is None
    assert linear_form(Renamed(IN, H, rngs=nnx.Rngs(0))) is not None
    smoothing = example()[0]

    class Squashed(smoothing):
        def __call__(self, h, x):
            h, y = super().__call__(h, x)
            return jnp.tanh(h), y

    assert linear_form(Squashed(IN)) is None


def test_wrappers_hand_a_form_on_where_the_step_is_the_same():
    for cell in (rj.LearnedCarry(build("lru"), rngs=nnx.Rngs(0)), rj.as_cell(build("lru"))):
        assert_linear_form_is_the_step(cell, random_carry(cell), XS[0])


BAD = {
    "a kind that is none": (("triangular", lambda z: (z, z)), "kind must be one of"),
    "Λ without leading axes": (("diagonal", lambda z: (z[0], z)), "Λ () and b (2,)"),
    "Λ of another size": (("dense", lambda z: (z[..., None], z)), "Λ (S, S)"),
    "b of another size": (("diagonal", lambda z: (z, z[..., :1])), "b (1,)"),
    "no pair of parts": (("complex", lambda z: (z, z)), "a packed carry (2, N)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_form_of_the_wrong_shapes_is_refused(case):
    form, message = BAD[case]

    class Wrong(example()[0]):
        def linear_form(self):
            return rj.LinearForm(*form)

    refuses(lambda: rj.unroll(Wrong(IN), XS, method="associative"), ValueError, message)


# ---- The instrument.


class Undifferentiable(rj.LRUCell):
    """An LRU whose step nobody may differentiate by its carry."""

    def step(self, carry, z):
        return super().step(jax.tree.map(_undifferentiable, carry), z)

    def linear_form(self):
        return self._complex_form(contracts=True)


@jax.custom_jvp
def _undifferentiable(h):
    return h


@_undifferentiable.defjvp
def _no_rule(primals, tangents):
    raise AssertionError("the step was differentiated by its carry")


def test_linearize_does_not_differentiate_the_step():
    plain = build("lru_skip")
    cell = object.__new__(Undifferentiable)
    vars(cell).update(vars(plain))
    found, expected = rj.linearize(cell, XS), rj.linearize(plain, XS)
    with pytest.raises(AssertionError, match="was differentiated"):
        jax.jacfwd(lambda carry: cell(carry, XS[0]))(random_carry(cell))
    for name in ("state", "input", "output_state", "output_input"):
        one, other = (getattr(lin, f"{name}_jacobians") for lin in (found, expected))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["lru_skip", "s5", "min_gru", "rg_lru", "indrnn", "rotations"])
def test_jacobians_are_those_of_automatic_differentiation(name):
    cell = Rotations(2) if name == "rotations" else build(name)
    lin = rj.linearize(cell, XS)
    _, unravel = jax.flatten_util.ravel_pytree(cell.initialize_carry((IN,)))

    @jax.jit
    @jax.vmap
    def expected(state, x):
        def step(state, x):
            after, y = cell(unravel(state), x)
            return jax.flatten_util.ravel_pytree(after)[0], y

        (a, b), (c, d) = jax.jacrev(step, (0, 1))(state, x)
        return a, b, c, d

    found = (
        lin.state_jacobians,
        lin.input_jacobians,
        lin.output_state_jacobians,
        lin.output_input_jacobians,
    )
    for one, other in zip(found, expected(lin.carries[:-1], XS), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_products_of_diagonal_jacobians_are_those_of_matrices():
    for name, width in (("lru", H), ("min_gru", H), ("simple", None)):
        lin = rj.linearize(build(name), XS)
        assert lin.diagonal_width == width
        steps = Record(lin).steps
        at_step_1 = jax.tree.map(lambda leaf: leaf[1], StepMatrices.of(steps))
        a = lin.state_jacobians[1]
        assert at_step_1.dense.shape[1] == (0 if width else H)
        p = jnp.asarray(np.random.default_rng(0).normal(size=(a.shape[0], 2, 5)))
        expected = jnp.einsum("ij,jkl->ikl", a, p)
        np.testing.assert_allclose(at_step_1.times(p), expected, rtol=1e-12)


def test_log_norms_count_what_underflows():
    """∏ (1 − z) is e^-2000: its logarithm is a sum."""
    cell = rj.MinGRUCell(1, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    cell.kernel[...] = jnp.full_like(cell.kernel[...], 20.0)
    xs = jnp.ones((101, 1), jnp.float32)
    log_factor = -np.log1p(np.exp(20.0))
    expected = np.arange(100, -1, -1) * log_factor + 0.5 * np.log(H)
    found = rj.jacobian_log_norms(cell, xs, wrt="state", targets=[100])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # By inputs, which meet the same factors, from where the state no longer changes.
    by_input = rj.gradient_flow(cell, xs).log_norms[100]
    np.testing.assert_allclose(np.diff(by_input[1:]), -log_factor, rtol=1e-4)


def test_a_scan_is_of_the_same_carries():
    """By hand once, for the reader: what a form says is the recurrence."""
    cell = build("min_gru")
    factor, added = linear_form(cell).transition(cell.project(XS))
    _, hs = lax.scan(lambda h, at: (at[0] * h + at[1],) * 2, jnp.zeros(H), (factor, added))
    np.testing.assert_allclose(hs, rj.unroll(cell, XS)[1], rtol=1e-12)
