"""Where sequences start: the cell's own carry, `carry=`, `initial=` or `resets=`; refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_padding import CLOSE, IN, LEFT, MASK, XS, H, T, assert_close

import rnn_jax as rj
import zoo
from refusing import refuses, table


@pytest.mark.parametrize("name", ["gru_reset_after", "nnx_gru"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_starts_from_the_cells_own_carry_and_goes_on_from_carry(name, reverse):
    cell, _ = zoo.build(name, IN, H, 1)
    five = jnp.full(H, 5.0)
    # The mark on the way into the first step that is run.
    first = np.arange(T) == 0

    @jax.jit
    def runs():
        run = functools.partial(rj.unroll, cell, XS[0], reverse=reverse)
        return {
            "five": run(five),
            "own": run(),
            "first": run(five, resets=first),
            "initial": run(initial=five),
            "initial, too": run(five, initial=five),
            "away": run(five, initial=-five, resets=np.ones(T, bool))[1],
        }

    found = runs()
    if reverse:
        np.testing.assert_allclose(found["first"][0], np.zeros(H), **CLOSE)
        assert_close(found["first"][1], found["five"][1])
    else:
        assert_close(found["first"], found["own"])
    assert_close(found["initial"], found["five"])
    assert_close(found["initial, too"], found["five"])
    alone = [rj.unroll(cell, x[None], -five)[1][0] for x in XS[0]]
    if reverse:
        alone[-1] = rj.unroll(cell, XS[0, -1:], five)[1][0]
    assert_close(found["away"], np.stack(alone))


def test_a_call_without_marks_chooses_between_no_carries():
    cell = zoo.CELLS["lstm"](IN, H, 1)

    def program(**marks):
        def loss(cell, xs):
            return jnp.sum(rj.unroll(cell, xs, **marks)[1])

        return str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(cell, XS))

    assert "select_n" not in program()
    assert "select_n" in program(mask=MASK)


def plain(carry, x):
    carry = jnp.tanh(carry + x)
    return carry, carry


def half(carry, x):
    return carry / 2, carry


H0 = jnp.zeros(IN)
GRU = zoo.CELLS["gru_reset_after"](IN, H, 0)
RESETS = np.zeros(T, bool)


def test_a_callable_without_a_carry_of_its_own_starts_from_initial():
    resets = np.arange(T) == 3
    _, ys = rj.unroll(plain, XS[0], H0 + 1, initial=H0, resets=resets)
    assert_close(ys[:3], rj.unroll(plain, XS[0, :3], H0 + 1)[1])
    assert_close(ys[3:], rj.unroll(plain, XS[0, 3:], H0)[1])
    assert_close(rj.unroll(plain, XS[0], initial=H0, resets=resets)[1][3:], ys[3:])
    # Nothing starts within a row without resets.
    assert rj.unroll(plain, XS[0], H0, mask=LEFT)[1].shape == (T, IN)


@table(
    no_initial=(
        lambda: rj.unroll(plain, XS[0], H0, resets=RESETS),
        TypeError,
        "resets need to know where a sequence starts",
        "got carry=",
        "initial=",
    ),
    shape=(
        lambda: rj.unroll(GRU, XS[0], initial=jnp.zeros(H + 1)),
        ValueError,
        "initial must have the structure",
        "got float64[4]",
        "Leave initial out",
    ),
    other_structure=(
        lambda: rj.unroll(plain, XS[0].astype("f4"), H0.astype("f4"), initial=(H0, H0)),
        ValueError,
        "could not take one step",
    ),
    other_form=(
        lambda: rj.unroll(half, XS[0], H0.astype("f4"), initial=H0, resets=RESETS),
        ValueError,
        "carry must have the form of the carry that sequences start from, float64[2]",
        "got float32[2]",
        "carry= and initial=",
    ),
    batch=(
        lambda: rj.unroll(GRU, XS, initial=jnp.zeros(H + 1)),
        ValueError,
        "each leaf of initial must lead with the batch axes of xs, (3,)",
        "(4,) at initial",
    ),
    leaf=(lambda: rj.unroll(GRU, XS[0], initial="zero"), TypeError, "initial must be a pytree"),
    pair=(
        lambda: rj.Bidirectional(GRU, zoo.CELLS["lstm"](IN, H, 1))(XS, initial=H0),
        ValueError,
        "initial must be a pair of carries",
        "got ArrayImpl.",
        "(initial, None)",
    ),
    both_masks=(
        lambda: rj.unroll(GRU, XS[0], mask=LEFT, lengths=3),
        ValueError,
        "lengths= and mask= cannot be given together",
        "got both",
        "Pass one",
    ),
    mask_numbers=(
        lambda: rj.unroll(GRU, XS[0], mask=LEFT.astype(int)),
        TypeError,
        "mask must be booleans",
        "int64",
        "mask == 1",
    ),
    mask_shape=(
        lambda: rj.unroll(GRU, XS, mask=LEFT),
        ValueError,
        "mask must have the shape of xs without features, (3, 6)",
        "got shape (6,)",
    ),
    mask_of_a_model=(
        lambda: rj.SequenceModel(GRU, 2, rngs=nnx.Rngs(0))(XS, mask=LEFT),
        ValueError,
        "mask must have the shape",
    ),
)
def test_what_is_refused(call, error, words):
    refuses(call, error, *words)
