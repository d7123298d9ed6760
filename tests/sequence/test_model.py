"""`SequenceModel` against NumPy: oracles stacked by hand, and a dense layer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import oracles
import rnn_jax as rj
import zoo

IN, H, OUT, T, B = 3, 4, 2, 5, 4
XS = np.random.default_rng(0).normal(size=(B, T, IN))
LENGTHS = [T, 1, 3, 0]


def layers(seed=0):
    return [
        zoo.CELLS["lstm_peephole"](IN, H, seed),
        zoo.CELLS["gru_reset_after"](H, H, seed + 1),
    ]


def model(readout, seed=0):
    built = rj.SequenceModel(layers(seed), OUT, readout=readout, rngs=nnx.Rngs(seed))
    built.bias[...] = jnp.asarray([0.3, -0.7])
    return built


def hidden(built, xs):
    """The top layer's outputs (T, H) for one sequence, layer by layer."""
    for cell in built.cells:
        carry = zoo.flat(cell.initialize_carry((cell.in_features,)))
        _, xs = oracles.run(zoo.oracle(cell).step, xs, carry)
    return xs


def dense(built, hs):
    return hs @ np.asarray(built.kernel[...]) + np.asarray(built.bias[...])


@jax.jit
def apply(built, xs, lengths=None):
    return built(xs, lengths=lengths)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_last_reads_the_last_valid_step_of_the_stack(lengths):
    built = model("last")
    outputs = apply(built, XS, None if lengths is None else jnp.asarray(lengths))
    for row, xs in enumerate(XS):
        stop = T if lengths is None else lengths[row]
        # An empty sequence has no state to read: what is left is the bias.
        h = hidden(built, xs[:stop])[-1] if stop else np.zeros(H)
        np.testing.assert_allclose(outputs[row], dense(built, h), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_all_reads_every_step_of_the_stack(lengths):
    built = model("all")
    outputs = apply(built, XS, None if lengths is None else jnp.asarray(lengths))
    for row, xs in enumerate(XS):
        stop = T if lengths is None else lengths[row]
        hs = np.zeros((T, H))
        if stop:
            hs[:stop] = hidden(built, xs[:stop])
        np.testing.assert_allclose(outputs[row], dense(built, hs), rtol=1e-12, atol=1e-13)


def test_padding_is_not_seen_by_any_layer():
    built, lengths = model("last"), jnp.asarray(LENGTHS)
    spoilt = XS.copy()
    for row, length in enumerate(LENGTHS):
        spoilt[row, length:] = np.nan

    @jax.jit
    def value_and_grad(xs):
        return jax.value_and_grad(
            lambda built, xs: jnp.sum(jnp.sin(built(xs, lengths=lengths))), (0, 1)
        )(built, xs)

    clean, dirty = value_and_grad(XS), value_and_grad(spoilt)
    chex.assert_trees_all_equal(*map(jax.tree.leaves, (clean, dirty)))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(dirty[1][1][row, length:], 0.0)


def test_the_readout_gradient_is_that_of_least_squares():
    built = model("last")
    targets = np.random.default_rng(1).normal(size=(B, OUT))
    gradient = jax.jit(jax.grad(lambda built: 0.5 * jnp.sum((built(XS) - targets) ** 2)))(built)
    hs = np.stack([hidden(built, xs)[-1] for xs in XS])
    errors = dense(built, hs) - targets
    np.testing.assert_allclose(gradient.kernel[...], hs.T @ errors, rtol=1e-11)
    np.testing.assert_allclose(gradient.bias[...], errors.sum(axis=0), rtol=1e-11)
    # The bottom layer learns through the one above it.
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient.cells[0]))


def test_one_cell_is_a_stack_of_one_and_leading_axes_are_free():
    cell = zoo.CELLS["simple_tanh"](IN, H, 0)
    alone = rj.SequenceModel(cell, OUT, rngs=nnx.Rngs(1))
    listed = rj.SequenceModel([cell], OUT, rngs=nnx.Rngs(1))
    assert jax.tree.structure(alone) == jax.tree.structure(listed)
    outputs = apply(alone, XS)
    np.testing.assert_array_equal(apply(listed, XS), outputs)
    np.testing.assert_allclose(apply(alone, XS[0]), outputs[0], rtol=1e-12)
    folded = apply(alone, XS.reshape(2, 2, T, IN))
    np.testing.assert_allclose(folded.reshape(B, OUT), outputs, rtol=1e-12)


def test_models_of_one_structure_compile_once_and_stack_into_an_ensemble():
    models = [model("last", seed) for seed in range(3)]
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(built, xs):
        return built(xs)

    outputs = [run(built, XS) for built in models]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    together = jax.jit(jax.vmap(lambda built: built(XS)))(stacked)
    np.testing.assert_allclose(together, np.stack(outputs), rtol=1e-11, atol=1e-13)
    assert not np.allclose(outputs[0], outputs[1])


def test_lengths_out_of_range_under_jit_make_that_row_nan():
    outputs = np.asarray(apply(model("last"), XS, jnp.asarray([T, 1, T + 1, 0])))
    np.testing.assert_array_equal(np.isnan(outputs).all(axis=1), [False, False, True, False])


def test_the_readout_has_the_type_of_the_cells():
    cell = rj.GRUCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    built = rj.SequenceModel(cell, OUT, rngs=nnx.Rngs(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(built)} == {"float32"}
    assert apply(built, XS.astype(np.float32)).dtype == jnp.float32


def test_the_readout_starts_from_the_initialiser_asked_for_and_a_zero_bias():
    cell = zoo.CELLS["simple_tanh"](IN, H, 0)
    built = rj.SequenceModel(cell, OUT, kernel_init="ones", rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(built.kernel[...], np.ones((H, OUT)))
    np.testing.assert_array_equal(built.bias[...], np.zeros(OUT))


# Options: residual paths, layer norm, dropout, directions, packed rows


KEY = jax.random.key(3)


@jax.jit
def apply_all(built, xs, lengths=None, resets=None, key=None):
    return built(xs, lengths=lengths, resets=resets, key=key)


def cells_of(*sizes):
    return [
        zoo.CELLS["simple_tanh"](below, size, seed)
        for seed, (below, size) in enumerate(zip((IN, *sizes), sizes, strict=False))
    ]


def normalised(norm, h):
    mean, variance = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
    scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
    return (h - mean) / np.sqrt(variance + norm.epsilon) * scale + bias


def by_hand(built, xs):
    """The top layer's outputs (T, H) of one sequence in NumPy, without dropout."""
    h = np.asarray(xs)
    for depth, cell in enumerate(built.cells):
        into = normalised(built.norms[depth - 1], h) if depth and len(built.norms) else h
        _, ys = oracles.run(zoo.oracle(cell).step, into, np.zeros(cell.hidden_features))
        h = h + ys if built.residual and h.shape == ys.shape else ys
    return h


def with_options(cells, **options):
    built = rj.SequenceModel(cells, OUT, rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(4)
    for norm in built.norms:
        for param in (norm.scale, norm.bias):
            param[...] = jnp.asarray(1 + 0.5 * rng.normal(size=param.shape))
    return built


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((H, H, IN, IN), {"residual": True}),
        ((IN, H), {"residual": True, "layer_norm": True}),
        ((H, IN), {"layer_norm": True}),
    ],
    ids=["residual", "both", "layer_norm"],
)
def test_options_add_paths_and_normalise_where_they_say(sizes, options):
    built = with_options(cells_of(*sizes), **options)
    dirty = XS.copy()
    for row, length in enumerate(LENGTHS):
        dirty[row, length:] = np.nan
    outputs = apply_all(built, dirty, jnp.asarray(LENGTHS))
    for row, length in enumerate(LENGTHS):
        h = by_hand(built, XS[row, :length])[-1] if length else np.zeros(sizes[-1])
        np.testing.assert_allclose(outputs[row], dense(built, h), rtol=1e-11, atol=1e-12)


def test_padding_is_not_seen_whatever_the_options():
    # Three features in and out of the lowest layer: the input itself is added to its output.
    cells = [rj.Bidirectional(cells_of(2)[0], cells_of(1)[0]), cells_of(H)[0]]
    built = with_options(cells, residual=True, layer_norm=True, dropout=0.3)
    lengths = jnp.asarray(LENGTHS)
    spoilt = XS.copy()
    for row, length in enumerate(LENGTHS):
        spoilt[row, length:] = np.nan

    @jax.jit
    def value_and_grad(built, xs):
        def loss(built, xs):
            outputs = built(xs, lengths=lengths, key=KEY)
            return jnp.sum(jnp.sin(outputs)), outputs

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(built, xs)

    clean, dirty = value_and_grad(built, XS), value_and_grad(built, spoilt)
    chex.assert_tree_all_finite(dirty)
    chex.assert_trees_all_equal(*map(jax.tree.leaves, (clean, dirty)))


def test_dropout_scales_what_passes_from_layer_to_layer_and_only_with_a_key():
    built = with_options(cells_of(H, H, 2), dropout=0.4, readout="all")
    expected = dense(built, np.stack([by_hand(built, xs) for xs in XS]))
    np.testing.assert_allclose(apply_all(built, XS), expected, rtol=1e-11, atol=1e-12)
    # A linear stack of ones shows the masks: every feature reaches the sum above by itself.
    ones = [
        rj.SimpleRNNCell(
            below, 400, activation="identity", recurrent_kernel_init="zeros", rngs=nnx.Rngs(0)
        )
        for below in (1, 400)
    ]
    for cell in ones:
        cell.bias[...] = jnp.ones(400)
    ones[0].kernel[...] = jnp.zeros((1, 400))
    ones[1].kernel[...] = jnp.eye(400)
    shown = rj.SequenceModel(ones, 400, dropout=0.25, readout="all", rngs=nnx.Rngs(0))
    shown.kernel[...] = jnp.eye(400)
    masks = np.asarray(apply_all(shown, jnp.zeros((2, 3, 1)), key=KEY)) - 1
    np.testing.assert_allclose(np.unique(masks.round(12)), [0, 1 / 0.75])
    # Independent at each step, feature and sequence: 2400 draws.
    flat = masks.reshape(6, 400) > 0
    assert abs(flat.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / flat.size)
    assert np.abs(np.corrcoef(flat) - np.eye(6)).max() < 5 / np.sqrt(400)
    # And the same whatever the lengths are.
    cut = apply_all(shown, jnp.zeros((2, 3, 1)), jnp.asarray([3, 1]), key=KEY)
    np.testing.assert_allclose(cut[0], masks[0] + 1)
    np.testing.assert_allclose(cut[1, 0], masks[1, 0] + 1)


def test_the_key_reaches_the_cells_too():
    cells = [rj.Zoneout(cells_of(H)[0], 0.5), rj.RecurrentDropout(cells_of(H, H)[1], 0.5)]
    built = rj.SequenceModel(cells, OUT, rngs=nnx.Rngs(0))
    noisy = apply_all(built, XS, key=KEY)
    first, second = (jax.random.split(k)[0] for k in jax.random.split(KEY, 2))
    _, hs = rj.unroll(built.cells[1], rj.unroll(built.cells[0], XS, key=first)[1], key=second)
    np.testing.assert_allclose(noisy, dense(built, np.asarray(hs[:, -1])), rtol=1e-11)


def test_resets_go_to_every_layer():
    built = with_options(cells_of(IN, H), residual=True, layer_norm=True, readout="all")
    resets = np.zeros((B, T), bool)
    resets[:, 2] = True
    packed = apply_all(built, XS, resets=jnp.asarray(resets))
    for row in range(B):
        for part in (slice(0, 2), slice(2, T)):
            expected = dense(built, by_hand(built, XS[row, part]))
            np.testing.assert_allclose(packed[row, part], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_last_of_two_directions_reads_where_each_has_seen_everything(lengths):
    forward, backward = zoo.CELLS["gru_reset_after"](IN, H, 0), cells_of(2)[0]
    built = rj.SequenceModel(rj.Bidirectional(forward, backward), OUT, rngs=nnx.Rngs(0))
    outputs = apply_all(built, XS, None if lengths is None else jnp.asarray(lengths))
    for row, xs in enumerate(XS):
        stop = T if lengths is None else lengths[row]
        ends = [np.zeros(H), np.zeros(2)]
        if stop:
            ends = [
                oracles.run(
                    zoo.oracle(cell).step, xs[:stop][::flip], np.zeros(cell.hidden_features)
                )
                for cell, flip in ((forward, 1), (backward, -1))
            ]
            ends = [ys[-1] for _, ys in ends]
        np.testing.assert_allclose(
            outputs[row], dense(built, np.concatenate(ends)), rtol=1e-11, atol=1e-12
        )


def test_layers_of_both_kinds_stack_and_keep_their_type():
    one = jnp.float32
    layers = [
        rj.Bidirectional(*(rj.GRUCell(IN, 2, param_dtype=one, rngs=nnx.Rngs(k)) for k in (0, 1))),
        rj.Zoneout(rj.SimpleRNNCell(4, 3, param_dtype=one, rngs=nnx.Rngs(2)), 0.1),
    ]
    built = rj.SequenceModel(layers, OUT, layer_norm=True, dropout=0.1, rngs=nnx.Rngs(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(built)} == {"float32"}
    outputs = apply_all(built, XS.astype(np.float32), key=KEY)
    assert outputs.dtype == one
    assert outputs.shape == (B, OUT)


def test_lengths_of_another_whole_type_are_read_as_they_are():
    built = with_options(cells_of(IN, H), residual=True)
    expected = apply_all(built, XS, jnp.asarray(LENGTHS))
    found = apply_all(built, XS, jnp.asarray(LENGTHS, jnp.uint8))
    np.testing.assert_array_equal(found, expected)


def test_checkpoints_and_truncation_reach_every_layer():
    built = rj.SequenceModel(layers(), OUT, readout="all", rngs=nnx.Rngs(0))
    bidirectional = rj.SequenceModel(rj.Bidirectional(*layers_of_one_size()), OUT, rngs=nnx.Rngs(0))
    for one in (built, bidirectional):
        expected = one(XS)
        options = {"checkpoint": 2, "truncate": 3}
        np.testing.assert_allclose(one(XS, **options), expected, rtol=1e-12, atol=1e-14)

    @jax.jit
    def reach(xs):
        """|d outputs at the last step / d inputs| by step."""
        gradient = jax.grad(lambda xs: jnp.sum(built(xs, truncate=2)[..., -1, :]))(xs)
        return jnp.abs(gradient).max(axis=(0, 2))

    # The last stretch of 2 is the one step that is left over.
    np.testing.assert_array_equal(np.asarray(reach(XS)) != 0, np.arange(T) >= T - 1)


def layers_of_one_size():
    return zoo.CELLS["lstm"](IN, H, 0), zoo.CELLS["gru_reset_after"](IN, H, 1)


def test_a_training_step_may_reuse_the_memory_that_it_is_given():
    """Donated weights and optimiser state are written over, and the step learns as ever."""
    optimizer = optax.sgd(1e-2, momentum=0.9)

    def step(built, state):
        gradient = jax.grad(lambda built: jnp.mean(jnp.square(built(XS) - 1.0)))(built)
        updates, state = optimizer.update(gradient, state, built)
        return optax.apply_updates(built, updates), state

    def start():
        built = model("last")
        return built, optimizer.init(built)

    expected = jax.jit(step)(*start())
    given = start()
    found = jax.jit(step, donate_argnums=(0, 1))(*given)
    chex.assert_trees_all_close(found, expected, rtol=1e-12)
    weights = [leaf for leaf in jax.tree.leaves(given) if leaf.ndim]
    assert all(leaf.is_deleted() for leaf in weights)
