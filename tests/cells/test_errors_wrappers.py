"""What cells made from cells refuse, and what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from refusing import refuses, table
from rnn_jax.cells.wrappers.wrapper import CellWrapper

IN, H, T, B = 3, 4, 6, 2
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
XS = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)))


def cell(name, seed=1, in_features=IN):
    return zoo.CELLS[name](in_features, H, seed)


LSTM, PEEPHOLE, BEFORE = cell("lstm"), cell("lstm_peephole"), cell("gru_reset_before")
FOREIGN = nnx.GRUCell(IN, H, rngs=nnx.Rngs(0))
OURS = "cell must be a cell of this package"
WEIGHTS = "RecurrentDropout needs a cell whose weights all multiply"


@table(
    foreign=(lambda: rj.Zoneout(FOREIGN, 0.1), TypeError, OURS, "got GRUCell", "Build one"),
    none=(lambda: rj.RecurrentDropout(None, 0.1), TypeError, OURS, "NoneType", "Build one"),
    a_class=(
        lambda: rj.LearnedCarry(rj.LSTMCell, rngs=nnx.Rngs(0)),
        TypeError,
        OURS,
        "the class LSTMCell",
        "LearnedCarry(LSTMCell(",
    ),
    a_stack=(lambda: rj.Zoneout(rj.StackedCell(LSTM), 0.1), TypeError, OURS, "StackedCell"),
    rate_1=(lambda: rj.Zoneout(LSTM, 1), ValueError, "rate must lie in [0, 1)", "got 1.0", "Pass"),
    rate_low=(
        lambda: rj.RecurrentDropout(LSTM, -0.1),
        ValueError,
        "rate must lie in [0, 1)",
        "got -0.1",
        "Pass a probability",
    ),
    rate_input=(
        lambda: rj.RecurrentDropout(LSTM, 0.1, 1.5),
        ValueError,
        "input_rate must lie in [0, 1)",
        "got 1.5",
        "Pass",
    ),
    rate_nan=(lambda: rj.Zoneout(LSTM, float("nan")), ValueError, "rate must be finite", "nan"),
    rate_string=(lambda: rj.Zoneout(LSTM, "c"), TypeError, "rate must be a number", "'c'", "Pass"),
    part=(
        lambda: rj.Zoneout(LSTM, {"c": 0.1, "cell": 0.5}),
        ValueError,
        "rate must name parts of the cell's carry, 'c', 'h'",
        "got 'cell'",
        "Pass one number",
    ),
    part_of_gru=(lambda: rj.Zoneout(BEFORE, {"c": 0.1}), ValueError, "carry, 'h'", "got 'c'"),
    part_rate=(
        lambda: rj.Zoneout(LSTM, {"c": 2.0}),
        ValueError,
        "rate['c'] must lie in [0, 1)",
        "got 2.0",
    ),
    peephole=(
        lambda: rj.RecurrentDropout(PEEPHOLE, 0.1),
        TypeError,
        WEIGHTS,
        "LSTMCell with peepholes",
        "peephole=False",
    ),
    reset_before=(
        lambda: rj.RecurrentDropout(BEFORE, 0.1),
        TypeError,
        WEIGHTS,
        "GRUCell with reset_after=False",
        "reset_after=True",
    ),
    activation=(
        lambda: rj.RecurrentDropout(
            rj.SimpleRNNCell(IN, H, activation=jax.nn.swish, rngs=nnx.Rngs(0)), 0.1
        ),
        TypeError,
        WEIGHTS,
        "SimpleRNNCell",
        "an activation of this package",
    ),
    zoned=(
        lambda: rj.RecurrentDropout(rj.Zoneout(LSTM, 0.1), 0.1),
        TypeError,
        "needs a cell without noise of its own",
        "Zoneout",
        "put Zoneout outside",
    ),
    twice=(
        lambda: rj.RecurrentDropout(CellWrapper(rj.RecurrentDropout(LSTM, 0.1)), 0.1),
        TypeError,
        "needs a cell without noise of its own",
        "both rates",
    ),
    init_unknown=(
        lambda: rj.LearnedCarry(LSTM, carry_init="zero", rngs=nnx.Rngs(0)),
        ValueError,
        "carry_init must be one of",
        "got 'zero'",
    ),
    init_matrix=(
        lambda: rj.LearnedCarry(LSTM, carry_init="orthogonal", rngs=nnx.Rngs(0)),
        ValueError,
        "carry_init must give an array of shape (4,)",
        'carry_init="zeros"',
    ),
    rngs=(
        lambda: rj.LearnedCarry(LSTM, rngs=0),
        TypeError,
        "rngs must be a flax.nnx.Rngs",
        "int",
        "nnx.Rngs(0)",
    ),
    carry_init_without_key=(
        lambda: rj.LearnedCarry(LSTM, rngs=nnx.Rngs(0)).initialize_carry((IN,), None, jnp.zeros),
        ValueError,
        "carry_init needs a key",
        "rngs=None",
    ),
    step_features=(
        lambda: rj.Zoneout(LSTM, 0.1)(LSTM.initialize_carry((IN,)), jnp.ones(IN + 1)),
        ValueError,
        "in_features=3",
        "got shape (4,)",
    ),
    step_carry=(
        lambda: rj.Zoneout(LSTM, 0.1)(jnp.ones(H), jnp.ones(IN)),
        ValueError,
        "carry must be (c, h)",
        "initialize_carry",
    ),
    features=(
        lambda: rj.unroll(rj.Zoneout(LSTM, 0.1), XS[..., :2]),
        ValueError,
        "in_features=3",
        "2 features",
    ),
)
def test_what_is_refused(call, error, words):
    refuses(call, error, *words)


def test_a_cell_that_stands_in_two_places_is_refused():
    shared = cell("gru_reset_after", in_features=H)
    for build in (
        lambda: rj.Bidirectional(rj.Zoneout(shared, 0.1), rj.Zoneout(shared, 0.2)),
        lambda: rj.StackedCell([shared, shared]),
        lambda: rj.SequenceModel([shared, rj.Zoneout(shared, 0.1)], 1, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(ValueError, match="weights of its own; got the same GRUCell twice"):
            build()


def test_a_carry_is_learned_once():
    once = rj.LearnedCarry(cell("lstm"), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="whose carry is not learned yet"):
        rj.LearnedCarry(rj.Zoneout(once, 0.1), rngs=nnx.Rngs(0))
