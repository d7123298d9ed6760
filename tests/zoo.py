"""The cells that the tests sweep: every constructor of ours once, and cells no one here wrote.

Weights that start at zero or one by default get random values, so that no term of an equation
drops out of a test.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.tree_util import Partial

import oracles
import rnn_jax as rj

Builder = Callable[[int, int, int], Any]  # (I, H, seed) -> cell
ForeignBuilder = Callable[[int, int, int], tuple[Any, Any]]  # -> (cell, initial carry or None)


def _ours(make: Callable[..., rj.RNNCell], **options: Any) -> Builder:
    def build(in_features: int, hidden_features: int, seed: int = 0) -> rj.RNNCell:
        cell = make(in_features, hidden_features, rngs=nnx.Rngs(seed), **options)
        return randomised(cell, seed)

    return build


def randomised(cell: rj.RNNCell, seed: int) -> rj.RNNCell:
    """The cell with noise added to all weights whose initial value is constant, or is by block."""
    rng = np.random.default_rng(seed)
    for param in parameters_of(cell).values():
        values = np.asarray(param[...], np.float64)
        if np.unique(values).size <= 2:
            noisy = values + 0.5 * rng.normal(size=param.shape)
            param[...] = jnp.asarray(noisy, param.dtype)
    return cell


def parameters_of(cell: rj.RNNCell) -> dict[str, nnx.Param[jax.Array]]:
    """The parameters of one of our cells (or of a gradient by it), by attribute name."""
    return {name: value for name, value in vars(cell).items() if isinstance(value, nnx.Param)}


def _projected(in_features: int, hidden_features: int, seed: int = 0) -> rj.RNNCell:
    """An LSTM whose projection keeps the size, so that it stands wherever the others do."""
    build = _ours(rj.LSTMCell, projection=hidden_features)
    return build(in_features, hidden_features, seed)


CELLS: dict[str, Builder] = {
    "simple_sigmoid": _ours(rj.SimpleRNNCell, activation="sigmoid"),
    "simple_tanh": _ours(rj.SimpleRNNCell, activation="tanh"),
    "simple_relu": _ours(rj.SimpleRNNCell, activation="relu"),
    "simple_leaky_relu": _ours(rj.SimpleRNNCell, activation="leaky_relu"),
    "simple_identity": _ours(rj.SimpleRNNCell, activation="identity"),
    "lstm": _ours(rj.LSTMCell),
    "lstm_forget_bias_0": _ours(rj.LSTMCell, forget_bias=0.0),
    "lstm_peephole": _ours(rj.LSTMCell, peephole=True),
    "lstm_coupled": _ours(rj.LSTMCell, coupled=True),
    "lstm_coupled_peephole": _ours(rj.LSTMCell, coupled=True, peephole=True),
    "lstm_1997": _ours(rj.LSTMCell, forget_gate=False),
    "lstm_projection": _projected,
    "gru_reset_after": _ours(rj.GRUCell, reset_after=True),
    "gru_reset_before": _ours(rj.GRUCell, reset_after=False),
}


# The long-memory family: what holds of every cell is tested in tests/cells, of these too.
FAMILY: dict[str, Builder] = {
    "antisymmetric": _ours(rj.AntisymmetricRNNCell, epsilon=0.3),
    "antisymmetric_gated": _ours(rj.AntisymmetricRNNCell, epsilon=0.3, gated=True),
    "cfc": _ours(rj.CfCCell, backbone_features=3),
    "cfc_bare": _ours(rj.CfCCell, backbone_layers=0),
    "clockwork": _ours(rj.ClockworkRNNCell),
    "cornn": _ours(rj.CoRNNCell, time_step=0.3),
    "echo_state": _ours(rj.EchoStateCell, leak_rate=0.5),
    "exprnn": _ours(rj.ExpRNNCell),
    "fast_grnn": _ours(rj.FastGRNNCell),
    "indrnn": _ours(rj.IndRNNCell),
    "layer_norm_gru": _ours(rj.LayerNormGRUCell),
    "layer_norm_lstm": _ours(rj.LayerNormLSTMCell),
    "leaky": _ours(rj.LeakyIntegratorCell, time_constant=3.0),
    "leaky_learnt": _ours(rj.LeakyIntegratorCell, time_constant=3.0, learn_time_constant=True),
    "lem": _ours(rj.LEMCell),
    "lmu": _ours(rj.LMUCell, memory_features=3, theta=5.0),
    "lru": _ours(rj.LRUCell),
    "mgu": _ours(rj.MGUCell),
    "mgu_reset_after": _ours(rj.MGUCell, reset_after=True),
    "min_gru": _ours(rj.MinGRUCell),
    "min_lstm": _ours(rj.MinLSTMCell),
    "minimal_rnn": _ours(rj.MinimalRNNCell),
    "mlstm": _ours(rj.MLSTMCell, num_heads=2),
    "rg_lru": _ours(rj.RGLRUCell, num_blocks=2),
    "s5": _ours(rj.S5Cell),
    "s5_stable": _ours(rj.S5Cell, stable=True),
    "scornn": _ours(rj.ScoRNNCell),
    "slstm": _ours(rj.SLSTMCell, num_heads=2),
    "ugrnn": _ours(rj.UGRNNCell),
    "unicornn": _ours(rj.UnICORNNCell, time_step=0.3),
    "unitary": _ours(rj.UnitaryRNNCell),
}


class Oracle(NamedTuple):
    """A cell's NumPy twin; carries are flat, see `oracles`."""

    step: oracles.Step
    jacobian: oracles.Step
    gradient: oracles.Grad
    output_rows: slice
    weights: oracles.Weights


def oracle(cell: rj.RNNCell) -> Oracle:
    """The twin of one of our cells, with its weights in float64."""
    kind, form = _kind_and_form(cell)
    weights = weights_of(cell)
    H, P = cell.hidden_features, cell.output_features
    bound = [
        functools.partial(getattr(oracles, f"{kind}_{what}"), weights, **form)
        for what in ("step", "jacobian", "gradient")
    ]
    return Oracle(*bound, slice(H, H + P) if kind == "lstm" else slice(0, H), weights)


def weights_of(cell: rj.RNNCell) -> oracles.Weights:
    """The parameters in float64, by attribute name; see `parameters_of`."""
    named = parameters_of(cell).items()
    return {name: np.asarray(value[...], np.float64) for name, value in named}


def _kind_and_form(cell: rj.RNNCell) -> tuple[str, dict[str, Any]]:
    match cell:
        case rj.SimpleRNNCell():
            return "simple_rnn", {"activation": cell.activation.name.partition("(")[0]}
        case rj.LSTMCell():
            return "lstm", {
                "peephole": cell.peephole is not None,
                "coupled": "input" not in cell.blocks,
                "forget_gate": "forget" in cell.blocks,
            }
        case rj.GRUCell():
            return "gru", {"reset_after": cell.reset_after}
    raise TypeError(f"no oracle for {type(cell).__name__}")


def flat(carry: Any) -> np.ndarray:
    """The leaves of a carry side by side along the last axis, in float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(carry)]
    return np.concatenate(leaves, axis=-1)


def random_carry(cell: rj.RNNCell, seed: int, *batch: int) -> Any:
    """A carry of one of our cells, standard normal."""
    rng = np.random.default_rng(seed)
    zeros = cell.initialize_carry((*batch, cell.in_features))
    return jax.tree.map(lambda part: jnp.asarray(rng.normal(size=part.shape), part.dtype), zeros)


def _nnx(make: Callable[..., Any], **options: Any) -> ForeignBuilder:
    def build(in_features: int, hidden_features: int, seed: int = 0) -> tuple[Any, None]:
        cell = make(
            in_features,
            hidden_features,
            param_dtype=jnp.float64,
            bias_init=nnx.initializers.normal(0.5),
            rngs=nnx.Rngs(seed),
            **options,
        )
        return cell, None

    return build


def _linen(make: Callable[..., Any], parts: int) -> ForeignBuilder:
    def build(in_features: int, hidden_features: int, seed: int = 0) -> tuple[Any, Any]:
        cell = make(
            hidden_features,
            param_dtype=jnp.float64,
            bias_init=nnx.initializers.normal(0.5),
        )
        h = jnp.zeros(hidden_features)
        carry = (h, h) if parts == 2 else h
        variables = cell.init(jax.random.key(seed), carry, jnp.zeros(in_features))
        return Partial(cell.apply, variables), carry

    return build


def _equinox_gru_step(cell: Any, carry: Any, x: Any) -> tuple[Any, Any]:
    h = cell(x, carry)
    return h, h


def _equinox_gru(in_features: int, hidden_features: int, seed: int = 0) -> tuple[Any, Any]:
    cell = eqx.nn.GRUCell(in_features, hidden_features, dtype=jnp.float64, key=jax.random.key(seed))
    return Partial(_equinox_gru_step, cell), jnp.zeros(hidden_features)


def _equinox_lstm(in_features: int, hidden_features: int, seed: int = 0) -> tuple[Any, Any]:
    cell = eqx.nn.LSTMCell(
        in_features, hidden_features, dtype=jnp.float64, key=jax.random.key(seed)
    )

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        h, c = cell(x, carry)
        return (h, c), h

    return step, (jnp.zeros(hidden_features), jnp.zeros(hidden_features))


def _dict_step(weights: Any, carry: Any, x: Any) -> tuple[Any, Any]:
    fast = jnp.tanh(x @ weights["in"] + carry["fast"] @ weights["fast"] + carry["slow"])
    slow = 0.9 * carry["slow"] + 0.1 * fast**2
    y = jnp.sin(fast @ weights["out"]) + x @ weights["skip"]
    return {"fast": fast, "slow": slow}, y


def _dict_readout(in_features: int, hidden_features: int, seed: int = 0) -> tuple[Any, Any]:
    """Fast and slow state in a dict, and an output of size 2 that is no part of them."""
    shapes = {
        "in": (in_features, hidden_features),
        "fast": (hidden_features, hidden_features),
        "out": (hidden_features, 2),
        "skip": (in_features, 2),
    }
    rng = np.random.default_rng(seed)
    weights = {k: jnp.asarray(0.7 * rng.normal(size=shape)) for k, shape in shapes.items()}
    zeros = jnp.zeros(hidden_features)
    return Partial(_dict_step, weights), {"fast": zeros, "slow": zeros + 0.1}


def henon_step(carry: Any, x: Any) -> tuple[Any, Any]:
    """The map of Hénon (1976), a = 1.2 and b = 0.3, pushed a little by the input."""
    u, v = carry["u"], carry["v"]
    u_next = 1.0 - 1.2 * u**2 + v + 0.01 * jnp.sum(x)
    return {"u": u_next, "v": 0.3 * u}, jnp.stack([u_next * v, u])


def _henon(in_features: int, hidden_features: int, seed: int = 0) -> tuple[Any, Any]:
    del in_features, hidden_features
    return henon_step, {"u": jnp.asarray(0.1 + 0.01 * seed), "v": jnp.asarray(0.1)}


class DecayingSum:
    """A plain object, no pytree, that makes its own carry."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def __call__(self, carry: Any, x: Any) -> tuple[Any, Any]:
        carry = self.decay * carry + x
        return carry, jnp.cos(carry)

    def initialize_carry(self, input_shape: tuple[int, ...]) -> Any:
        return jnp.ones(input_shape)


FOREIGN: dict[str, ForeignBuilder] = {
    "nnx_simple": _nnx(nnx.SimpleCell, dtype=jnp.float64),
    "nnx_lstm": _nnx(nnx.LSTMCell),
    "nnx_optimized_lstm": _nnx(nnx.OptimizedLSTMCell),
    "nnx_gru": _nnx(nnx.GRUCell),
    "linen_lstm": _linen(linen.LSTMCell, parts=2),
    "linen_gru": _linen(linen.GRUCell, parts=1),
    "equinox_gru_partial": _equinox_gru,
    "equinox_lstm_function": _equinox_lstm,
    "dict_readout": _dict_readout,
    "henon": _henon,
    "plain_object": lambda i, h, seed=0: (DecayingSum(0.5 + 0.1 * seed), None),
}

EVERY = [*CELLS, *FOREIGN]


def build(name: str, in_features: int, hidden_features: int, seed: int = 0) -> tuple[Any, Any]:
    """(cell, initial carry or None) of any cell in the zoo."""
    if name in CELLS:
        return CELLS[name](in_features, hidden_features, seed), None
    return FOREIGN[name](in_features, hidden_features, seed)
