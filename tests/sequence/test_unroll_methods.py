"""`unroll(method=)`: cells that are linear in their carry, in parallel over time, or scanned."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from rnn_jax.cells.linear import KINDS
from rnn_jax.sequence import method as choosing
from rnn_jax.sequence.running import associative

IN, H, T, B = 2, 3, 11, 2
CLOSE = {"rtol": 1e-10, "atol": 1e-11}
RNG = np.random.default_rng(0)
XS = jnp.asarray(RNG.normal(size=(B, T, IN)))

CELLS = {
    "min_gru": lambda **how: rj.MinGRUCell(IN, H, rngs=nnx.Rngs(0), **how),
    "lru": lambda **how: rj.LRUCell(IN, H, out_features=IN, rngs=nnx.Rngs(0), **how),
    "simple": lambda **how: rj.SimpleRNNCell(IN, H, activation="identity", rngs=nnx.Rngs(0), **how),
    "learned": lambda: rj.LearnedCarry(
        rj.MinLSTMCell(IN, H, rngs=nnx.Rngs(1)),
        carry_init=nnx.initializers.normal(0.5),
        rngs=nnx.Rngs(0),
    ),
}


class Turning:
    """A plane turned by an angle of the input: a block-diagonal Λ that differs at each step."""

    def __init__(self, gain):
        self.gain = gain

    def initialize_carry(self, input_shape):
        return jnp.ones((*input_shape[:-1], 1, 2))

    def __call__(self, carry, x):
        factor, added = self.transition(x)
        h = jnp.einsum("...ij,...j->...i", factor, carry) + added
        return h, jnp.sin(h[..., 0, :])

    def transition(self, x):
        angle = (self.gain * x[..., 0])[..., None]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
        return turn, jnp.stack([x[..., 1:], 0 * x[..., 1:]], -1)

    def linear_form(self):
        return rj.LinearForm(
            "block", self.transition, lambda h, x: jnp.sin(h[..., 0, :]), contracts=True
        )


jax.tree_util.register_pytree_node(
    Turning, lambda cell: ((cell.gain,), None), lambda _, parts: Turning(*parts)
)
CELLS["turning"] = lambda: Turning(jnp.asarray(0.7))

RESETS = jnp.asarray(RNG.random((B, T)) < 0.3)
OPTIONS = {
    "all forwards": {
        "lengths": jnp.asarray([T, 7]),
        "resets": RESETS,
        "checkpoint": 4,
        "return_carries": True,
    },
    "all backwards": {
        "mask": jnp.asarray(RNG.random((B, T)) < 0.7),
        "resets": RESETS.at[:, 0].set(True),
        "truncate": 5,
        "reverse": True,
    },
    "no steps": {"lengths": jnp.asarray([0, 3])},
}
# Every cell with all options of one direction at once, and one with those of both.
SWEPT = [(name, "all forwards") for name in ("min_gru", "simple")]
SWEPT += [(name, "all backwards") for name in ("min_gru", "lru", "learned", "turning")]
SWEPT += [("min_gru", "no steps")]

METHODS = ("scan", "associative")


def carry_of(cell, seed=1):
    """Some carry for each sequence of the batch."""
    rng = np.random.default_rng(seed)
    zeros = cell.initialize_carry((B, IN))
    return jax.tree.map(lambda part: jnp.asarray(rng.normal(size=part.shape)), zeros)


def loss(cell, xs, carry, initial, **options):
    """A number that hangs on everything that `unroll` returns."""
    found = rj.unroll(cell, xs, carry, initial=initial, **options)
    return sum(jnp.sum(jnp.sin(leaf + 0.3)) for leaf in jax.tree.leaves(found)), found


@pytest.mark.parametrize(("name", "how"), SWEPT)
def test_values_and_gradients_are_those_of_the_scan(name, how):
    cell = CELLS[name]()
    operands = (cell, XS, carry_of(cell), carry_of(cell, 2))

    @jax.jit
    def both(*operands):
        runs = [functools.partial(loss, **OPTIONS[how], method=method) for method in METHODS]
        return [jax.value_and_grad(run, (0, 1, 2, 3), has_aux=True)(*operands) for run in runs]

    chex.assert_trees_all_close(*both(*operands), **CLOSE)


def test_derivatives_of_every_mode_are_those_of_the_scan():
    cell = CELLS["min_gru"]()
    along = jax.tree.map(lambda w: jnp.asarray(RNG.normal(size=w.shape)), cell)

    def modes(method):
        def value(cell):
            return jnp.sum(rj.unroll(cell, XS, method=method, lengths=[T, 5])[1] ** 2)

        hessian = jax.jvp(jax.grad(value), (cell,), (along,))
        twice = jax.grad(lambda cell: jax.jvp(value, (cell,), (along,))[1])(cell)
        return hessian, twice

    found = jax.jit(lambda: [modes(method) for method in METHODS])()
    chex.assert_trees_all_close(*found, **CLOSE)
    ((_, forward), back) = found[1]
    chex.assert_trees_all_close(forward, back, **CLOSE)


def test_members_of_an_ensemble_run_side_by_side():
    cells = [rj.MinGRUCell(IN, H, rngs=nnx.Rngs(seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *cells)

    @jax.jit
    def gradient(cell):
        run = functools.partial(rj.unroll, method="associative", resets=RESETS)
        return jax.grad(lambda cell: jnp.sum(run(cell, XS)[1] ** 2))(cell)

    found = jax.jit(jax.vmap(gradient))(stacked)
    for k, cell in enumerate(cells):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[k], found), gradient(cell), **CLOSE
        )


@pytest.mark.parametrize("method", ["associative", "auto"])
def test_rows_may_lie_on_devices(method, monkeypatch):
    """Inside `jax.shard_map`, where what all devices share is of another type than what one has."""
    monkeypatch.setattr(choosing, "_LEAST_STEPS", T)  # So that platforms differ.
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, every = jax.sharding.PartitionSpec("rows"), jax.sharding.PartitionSpec()

    def gradient(cell, xs, lengths, method=method):
        run = functools.partial(rj.unroll, lengths=lengths, method=method)
        return jax.grad(lambda cell: jnp.sum(run(cell, xs)[1] ** 2))(cell)

    cell, lengths = CELLS["lru"](), jnp.asarray([T, 5])
    sharded = jax.shard_map(gradient, mesh=mesh, in_specs=(every, rows, rows), out_specs=every)
    found = jax.jit(sharded)(cell, XS, lengths)
    expected = jax.jit(functools.partial(gradient, method="scan"))(cell, XS, lengths)
    chex.assert_trees_all_close(*map(jax.tree.leaves, (found, expected)), **CLOSE)


@pytest.mark.parametrize("name", ["lru", "turning"])
def test_padding_holds_anything(name):
    cell = CELLS[name]()
    mask = jnp.ones((B, T), bool).at[:, 3:6].set(False).at[1].set(False)
    carry = jax.tree.map(lambda part: part.at[1].set(jnp.inf), carry_of(cell))

    @jax.jit
    def run(xs):
        def value(cell, xs):
            last, ys = rj.unroll(cell, xs, carry, mask=mask, method="associative")
            return jnp.sum(ys) + sum(jnp.sum(part[0]) for part in jax.tree.leaves(last))

        return jax.value_and_grad(value, (0, 1))(cell, xs)

    spoilt = jnp.where(mask[..., None], XS, jnp.nan)
    found, expected = run(spoilt), run(XS)
    chex.assert_trees_all_close(found, expected, **CLOSE)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))
    assert not found[1][1][1].any()


def test_products_that_underflow_are_right_to_float32():
    """∏ (1 − z) = e^-2000: nothing is divided by it, so values and gradients need no logarithms.

    Against float64 one step after another, whose own products are 0 only below e^-745.
    """
    cell = rj.MinGRUCell(1, H, positive_candidate=False, rngs=nnx.Rngs(0))
    xs = jnp.asarray(RNG.normal(size=(400, 1)))
    # 1 − z about e^-5, and h̃ of both signs: the carry is negative at times.
    gate = jnp.full((1, H), 0.1)
    cell.kernel[...] = jnp.concatenate([gate, jnp.ones((1, H))], axis=1)
    shift = jnp.concatenate([jnp.full(H, 5.0), jnp.zeros(H)])

    def run(cell, xs, carry, shift, method):
        biased = Shifted(cell, shift)
        _, ys = rj.unroll(biased, xs, carry, method=method)
        return jnp.sum(jnp.sin(ys)), ys

    def results(dtype, method):
        def cast(tree):
            return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

        operands = cast((cell, xs, jnp.full(H, -0.5), shift))
        run_as = functools.partial(run, method=method)
        return jax.jit(jax.value_and_grad(run_as, (0, 1, 2, 3), has_aux=True))(*operands)

    (_, exact), by_exact = results(jnp.float64, "scan")
    (_, ys), gradients = results(jnp.float32, "associative")
    kept = jax.nn.log_sigmoid(-(0.1 * xs + 5.0))
    assert float(kept.sum()) < -1990
    np.testing.assert_allclose(ys, exact, rtol=1e-5, atol=1e-6)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(by_exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6 * float(abs(other).max()))


class Shifted(rj.cells.MinGRUCell):
    """A minGRU with a bias that is handed in."""

    def __init__(self, cell, shift):
        vars(self).update(vars(cell))
        self.shift = nnx.data(shift)

    def project(self, x):
        pre = x @ self.kernel[...]
        update, candidate = jnp.split(pre + jnp.broadcast_to(self.shift, pre.shape), 2, axis=-1)
        taken = jax.nn.sigmoid(update)
        return jnp.concatenate([jax.nn.sigmoid(-update), taken * candidate], axis=-1)

    def linear_form(self):
        return rj.LinearForm("diagonal", self._transition, contracts=True)


# ---- Types.


def test_a_narrow_product_leaves_the_recurrence_as_wide_as_the_carry():
    how = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32, "param_dtype": jnp.float32}
    cell, xs = CELLS["lru"](**how), XS.astype(jnp.float32)
    found = [rj.unroll(cell, xs, method=method) for method in METHODS]
    chex.assert_trees_all_equal_dtypes(*found)
    # The carry is read in bfloat16, to which a difference of rounding may be one of its digits.
    chex.assert_trees_all_close(*found, rtol=0.02, atol=0.02)
    dense = CELLS["simple"](**how)
    refuses(lambda: rj.unroll(dense, xs, method="associative"), ValueError, "no linear_form")


def test_a_carry_of_another_type_is_scanned():
    class Narrow(Turning):
        def transition(self, x):
            turn, added = super().transition(x)
            return turn.astype(jnp.float32), added

        def __call__(self, carry, x):
            h = jnp.einsum("...ij,...j->...i", self.transition(x)[0].astype(carry.dtype), carry)
            return h, h

        def linear_form(self):
            return rj.LinearForm("block", self.transition)

    cell = Narrow(0.7)
    choice = rj.unroll_method(cell, XS[0])
    assert choice.method == "scan"
    assert "several types, float32, float64" in choice.reason
    refuses(
        lambda: rj.unroll(cell, XS, method="associative"), ValueError, "Narrow are of several types"
    )


# ---- What is refused, or scanned.


def test_what_is_not_linear_is_refused_in_words():
    gru = rj.GRUCell(IN, H, rngs=nnx.Rngs(0))
    noisy = rj.RecurrentDropout(CELLS["simple"](), 0.3)
    key = jax.random.key(0)
    for call, words in (
        (
            lambda: rj.unroll(gru, XS, method="associative"),
            ("GRUCell has no", "auto"),
        ),
        (lambda: rj.unroll(noisy, XS, key=key, method="associative"), ("noise", "auto")),
        (
            lambda: rj.unroll(rj.Zoneout(CELLS["lru"](), 0.2), XS, method="associative"),
            ("Zoneout has no", "auto"),
        ),
        (lambda: rj.unroll(gru, XS, method="parallel"), ("method must be one of", "'parallel'")),
        (
            lambda: rj.unroll(CELLS["lru"](), XS, method="associative", implementation="kernel"),
            ("step by step", "associative", "one of the two"),
        ),
    ):
        refuses(call, ValueError, *words)
    # Without a key there is no noise.
    found = [rj.unroll(noisy, XS, method=method) for method in METHODS]
    chex.assert_trees_all_close(*found, **CLOSE)
    refuses(lambda: rj.unroll_method(gru, XS, platform="abacus"), ValueError, "platform")


# ---- What "auto" does.

LONG = jnp.asarray(RNG.normal(size=(130, IN)))


def scans_in(program):
    """How many loops a lowered program has."""
    return program.as_text().count("stablehlo.while")


def lowered(platform, method, steps=LONG):
    cell = CELLS["lru"]()
    run = jax.jit(lambda cell, xs: rj.unroll(cell, xs, method=method))
    return run.trace(cell, steps).lower(lowering_platforms=(platform,))


def test_the_choice_is_that_of_the_platform_that_is_lowered_for():
    assert rj.unroll_method(CELLS["lru"](), LONG, platform="cpu").method == "scan"
    assert rj.unroll_method(CELLS["lru"](), LONG, platform="gpu").method == "associative"
    assert scans_in(lowered("cpu", "auto")) == scans_in(lowered("cpu", "scan")) == 1
    # All of it is one chunk.
    assert scans_in(lowered("cuda", "auto")) == scans_in(lowered("cuda", "associative")) == 0


def test_the_choice_can_be_asked():
    asked = rj.unroll_method
    assert "LSTMCell has no linear_form" in asked(rj.LSTMCell(IN, H, rngs=nnx.Rngs(0)), XS).reason
    growing = asked(rj.S5Cell(IN, H, rngs=nnx.Rngs(0)), LONG, platform="gpu")
    assert growing.method == "scan"
    assert "may grow" in growing.reason
    lru = CELLS["lru"]()
    assert "few (a rule for GPUs" in asked(lru, LONG[:50], platform="tpu").reason
    assert "not measured" in asked(lru, LONG, platform="gpu").reason
    assert "says how to go step by step" in asked(lru, LONG, implementation="scan").reason
    sizes = jax.ShapeDtypeStruct((3, 100_000, IN), float)
    on_cpu = asked(lru, sizes, platform="cpu")
    assert '"complex" with T = 100000' in on_cpu.reason
    noisy = rj.RecurrentDropout(CELLS["simple"](), 0.3)
    assert "noise" in asked(noisy, XS, key=jax.random.key(0)).reason
    wide = rj.ExpRNNCell(IN, 20, use_bias=False, rngs=nnx.Rngs(0))
    assert "(20, 20)" in asked(wide, LONG, platform="gpu").reason


def test_the_measurements_are_whole():
    text = choosing.files("rnn_jax.sequence").joinpath("linear_recurrences.csv").read_text()
    assert "Measured on: " in text
    rows = choosing._measurements()
    assert {row.kind for row in rows} == set(KINDS)
    for kind in KINDS:
        steps = [row.steps for row in rows if row.kind == kind]
        assert (min(steps), max(steps)) == (10**3, 10**6)
    for row in rows:
        fastest = "associative" if row.associative < 0.8 * row.scan else "scan"
        found = choosing._as_measured(row.kind, row.steps, row.rows, row.elements)
        assert found.method == fastest


def test_models_take_what_is_measured_to_be_faster(monkeypatch):
    fast = tuple(row._replace(associative=0.5 * row.scan) for row in choosing._measurements())
    model = rj.SequenceModel(
        [rj.LRUCell(IN, H, rngs=nnx.Rngs(0)), rj.MinGRUCell(H, H, rngs=nnx.Rngs(1))]
    )
    xs = jnp.asarray(RNG.normal(size=(501, IN)))
    expected = jax.jit(lambda model, xs: model(xs))(model, xs)
    monkeypatch.setattr(choosing, "_measurements", lambda: fast)
    # Programs are kept by the precision that is asked for, so none is found that chose before.
    with jax.default_matmul_precision("float32"):
        # A single chunk is no loop, and 501 steps are two chunks.
        assert scans_in(jax.jit(lambda model, xs: model(xs)).lower(model, xs[:255])) == 2
        np.testing.assert_allclose(model(xs), expected, **CLOSE)


def test_programs_do_not_grow_with_the_length():
    def size(steps):
        program = jax.jit(jax.grad(lambda cell, xs: jnp.sum(rj.unroll(cell, xs)[1])))
        cell = CELLS["lru"]()
        shape = jax.ShapeDtypeStruct((steps, IN), float)
        traced = program.trace(cell, shape)
        return [
            len(traced.lower(lowering_platforms=(platform,)).as_text().splitlines())
            for platform in ("cpu", "cuda")
        ]

    assert size(2**9) == size(2**13)


def test_memory_is_of_carries_and_one_chunk():
    """Λ of all steps is never written down where it is one Λ, nor are its products."""
    steps, size = 2**13, 16
    cell = rj.SimpleRNNCell(IN, size, activation="identity", rngs=nnx.Rngs(0))

    def gradient(cell, xs):
        run = functools.partial(rj.unroll, method="associative")
        return jax.grad(lambda cell: jnp.sum(run(cell, xs)[1] ** 2))(cell)

    shape = jax.ShapeDtypeStruct((steps, IN), float)
    compiled = jax.jit(gradient).lower(cell, shape).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    chunk = associative.LONGEST * size * size
    assert used < 8 * (8 * steps * size + 8 * chunk) < 8 * steps * size * size
