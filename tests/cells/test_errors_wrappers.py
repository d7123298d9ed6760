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


def foreign_step(carry, x):
    return carry, x


def adapted(carry, in_features=IN):
    return rj.as_cell(foreign_step, initial_carry=carry, in_features=in_features)


WEIGHTS = "RecurrentDropout needs a cell whose weights all multiply"


@table(
    none=(
        lambda: rj.RecurrentDropout(None, 0.1),
        TypeError,
        "cell is no cell",
        "must be callable",
        "NoneType",
        "Pass an NNX cell",
    ),
    a_class=(
        lambda: rj.LearnedCarry(rj.LSTMCell, rngs=nnx.Rngs(0)),
        TypeError,
        "must be an instance",
        "the class LSTMCell",
        "Build it first",
    ),
    without_carry=(
        lambda: rj.Zoneout(foreign_step, 0.1),
        TypeError,
        "cell must be a cell that knows where a sequence starts",
        "got function without one",
        "as_cell(cell, initial_carry=…)",
    ),
    without_features=(
        lambda: rj.Zoneout(rj.as_cell(foreign_step, initial_carry=jnp.zeros(H)), 0.1),
        TypeError,
        "Zoneout needs a cell that says how many features it takes",
        "AdaptedCell without in_features",
        "as_cell(cell, in_features=…)",
    ),
    learned_without_features=(
        lambda: rj.LearnedCarry(rj.as_cell(foreign_step, initial_carry=jnp.zeros(H))),
        TypeError,
        "LearnedCarry needs a cell that says how many features it takes",
        "as_cell(cell, in_features=…)",
    ),
    nothing_to_learn=(
        lambda: rj.LearnedCarry(adapted({"count": np.zeros(2, int)})),
        TypeError,
        "LearnedCarry needs a cell whose carry has floats to learn",
        "int64",
        "Leave LearnedCarry out",
    ),
    counter=(
        lambda: rj.Zoneout(adapted({"count": np.zeros(2, int), "h": np.zeros(H)}), 0.1),
        TypeError,
        "rate needs parts of the carry that hold floats",
        "0.1 for 'count', which holds int64",
        "rate={'h': 0.1}",
    ),
    structure=(
        lambda: rj.Zoneout(LSTM, (0.1, 0.2, 0.3)),
        ValueError,
        "rate must be one number, a dict by part of the carry, or of the carry's structure",
        "The parts are 'c', 'h'",
    ),
    foreign_state=(
        lambda: rj.RecurrentDropout(FOREIGN, 0.1),
        TypeError,
        WEIGHTS,
        "got a GRUCell, of which that is not known",
        "name the parts of the carry",
    ),
    foreign_part=(
        lambda: rj.RecurrentDropout(FOREIGN, {"h": 0.1}),
        ValueError,
        "rate must name parts of the cell's carry, 'carry'",
        "got 'h'",
    ),
    no_start=(
        lambda: rj.as_cell(foreign_step),
        TypeError,
        "as_cell needs to know where a sequence starts",
        "function",
        "initial_carry=",
    ),
    start_of_text=(
        lambda: rj.as_cell(foreign_step, initial_carry={"h": "zeros"}),
        TypeError,
        "initial_carry must be a pytree of arrays",
        "str at initial_carry['h']",
        "jnp.zeros(64)",
    ),
    no_features=(lambda: adapted(np.zeros(H), 0), ValueError, "in_features must be at least 1"),
    no_callable=(
        lambda: rj.as_cell(3, initial_carry=np.zeros(H)),
        TypeError,
        "a cell must be callable",
        "int",
    ),
    drawn_beside_given=(
        lambda: adapted(np.zeros(H)).initialize_carry((IN,), nnx.Rngs(0), jnp.zeros),
        TypeError,
        "carry_init cannot be given to a cell whose initial carry was given",
        "Leave carry_init out",
    ),
    drawn_of_an_object=(
        lambda: rj.as_cell(zoo.DecayingSum(0.5)).initialize_carry((IN,), nnx.Rngs(0), jnp.zeros),
        TypeError,
        "carry_init needs a cell whose initialize_carry takes one",
        "DecayingSum",
    ),
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
    truncated=(
        lambda: rj.RecurrentDropout(rj.LSTMCell(IN, H, truncated=True, rngs=nnx.Rngs(0)), 0.1),
        TypeError,
        WEIGHTS,
        "LSTMCell with a truncated gradient",
        "truncated=False",
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
        "carry_init must be an initialiser of a few numbers for each unit",
        "got 'orthogonal'",
        "Pass one of",
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
