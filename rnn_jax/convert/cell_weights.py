"""The weights of one cell, as all conversions pass them on: in this package's layout."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.activations import ActivationLike, computes
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.claims import makes_claim
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.simple import SimpleRNNCell
from rnn_jax.checks import kind_of

# G, the blocks of a fused kernel, by kind of cell. In an LSTM: input, forget, candidate, output;
# in a GRU: reset, update, candidate.
BLOCKS = {"rnn": 1, "gru": 3, "lstm": 4}

_CELLS: dict[str, type[RNNCell]] = {"rnn": SimpleRNNCell, "gru": GRUCell, "lstm": LSTMCell}


@dataclass(frozen=True)
class CellWeights:
    """One simple RNN, LSTM or GRU in this package's layout, its arrays NumPy's.

    Attributes:
      kind: "rnn", "lstm" or "gru".
      kernel: W_x, (I, G·H).
      recurrent_kernel: W_h, (P, G·H); P is H but for a projection.
      bias: (G·H,); None without biases.
      candidate_recurrent_bias: (H,) of a GRU with biases that resets after the product; else None.
      projection: W_p of an LSTM that has one, (H, P); else None.
      activation: of a simple RNN; of a gated cell that of candidate and cell state.
      gate: σ of a gated cell.
      reset_after: whether a GRU resets after the product.
      dtype: the type to compute in; None takes JAX's promotion.
    """

    kind: str
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    candidate_recurrent_bias: np.ndarray | None = None
    projection: np.ndarray | None = None
    activation: ActivationLike = "tanh"
    gate: ActivationLike = "sigmoid"
    reset_after: bool = True
    dtype: Any = None

    @property
    def in_features(self) -> int:
        """I."""
        return int(self.kernel.shape[0])

    @property
    def hidden_features(self) -> int:
        """H."""
        return int(self.recurrent_kernel.shape[1]) // BLOCKS[self.kind]

    @property
    def output_features(self) -> int:
        """P with a projection, else H."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def param_dtype(self) -> Any:
        """The type that holds all arrays."""
        return jnp.result_type(*self.arrays().values())

    def with_bias(self, bias: bool) -> "CellWeights":
        """The same cell with biases, 0 if it had none, or without them.

        Raises:
          ValueError: without them it would compute something else.
        """
        there = (self.bias, self.candidate_recurrent_bias)
        if not bias:
            if any(b is not None and np.any(b != 0) for b in there):
                raise ValueError(
                    "bias=False leaves the biases out, so all must be 0; got others. Leave "
                    "bias=False out."
                )
            return replace(self, bias=None, candidate_recurrent_bias=None)
        if self.bias is not None:
            return self
        zeros = np.zeros_like(self.recurrent_kernel[0])
        within = self.kind == "gru" and self.reset_after
        own = np.zeros(self.hidden_features, zeros.dtype) if within else None
        return replace(self, bias=zeros, candidate_recurrent_bias=own)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by the name of the cell's attribute."""
        named = {
            "kernel": self.kernel,
            "recurrent_kernel": self.recurrent_kernel,
            "bias": self.bias,
            "candidate_recurrent_bias": self.candidate_recurrent_bias,
            "projection_kernel": self.projection,
        }
        return {name: array for name, array in named.items() if array is not None}


def cell_of(weights: CellWeights) -> RNNCell:
    """A cell of this package with these weights, all in the type that holds them."""
    options: dict[str, Any] = {
        "kernel_init": "zeros",
        "recurrent_kernel_init": "zeros",
        "use_bias": weights.bias is not None,
        "dtype": weights.dtype,
        "param_dtype": weights.param_dtype,
        "rngs": nnx.Rngs(0),
    }
    if weights.kind == "rnn":
        options["activation"] = weights.activation
    else:
        options |= {"gate_fn": weights.gate, "activation_fn": weights.activation}
    if weights.kind == "gru":
        options["reset_after"] = weights.reset_after
    elif weights.projection is not None:
        options["projection"] = weights.output_features
    cell = _CELLS[weights.kind](weights.in_features, weights.hidden_features, **options)
    for name, array in weights.arrays().items():
        # JAX may read the memory of an array later, when its owner has written into it.
        getattr(cell, name)[...] = jnp.asarray(np.array(array, weights.param_dtype))
    return cell


def weights_of(cell: Any, to: str) -> CellWeights:
    """The weights of one of this package's cells.

    Args:
      cell: the cell.
      to: the library that they are for, for messages.

    Raises:
      TypeError: it is no such cell, or computes something else than its class says.
      ValueError: a variant that no other library has, or an ensemble.
    """
    kind = next((kind for kind, of_kind in _CELLS.items() if isinstance(cell, of_kind)), None)
    if kind is None:
        raise TypeError(
            f"what goes to {to} must be this package's SimpleRNNCell, LSTMCell or GRUCell as it "
            f"stands; got {with_origin(cell)}. Convert a cell of Flax by rnn_jax.convert.from_flax "
            "first, and of a wrapper the cell inside, .cell."
        )
    own_form = type(cell).fused_form is _CELLS[kind].fused_form
    if not (own_form and makes_claim(cell, "fused_form")):
        raise TypeError(
            f"what goes to {to} must run the step of its class; got {kind_of(cell)}, whose step is "
            f"not that of {_CELLS[kind].__name__}. Build one with its weights, if these are all "
            "that you want to hand on."
        )
    if kind == "lstm":
        _check_lstm(cell, to)
    if cell.kernel[...].ndim != 2:
        raise ValueError(
            f"what goes to {to} must be one cell; got an ensemble, with kernels of shape "
            f"{cell.kernel[...].shape}. Take a member: rnn_jax.member(models, 0)."
        )
    names = (
        "kernel",
        "recurrent_kernel",
        "bias",
        "candidate_recurrent_bias",
        "projection_kernel",
    )
    there = {name: getattr(cell, name, None) for name in names}
    arrays = {name: as_numpy(name, array) for name, array in there.items() if array is not None}
    return CellWeights(
        kind,
        arrays["kernel"],
        arrays["recurrent_kernel"],
        arrays.get("bias"),
        arrays.get("candidate_recurrent_bias"),
        arrays.get("projection_kernel"),
        cell.activation if kind == "rnn" else cell.activation_fn,
        getattr(cell, "gate_fn", "sigmoid"),
        getattr(cell, "reset_after", True),
        cell.dtype,
    )


def with_origin(value: Any) -> str:
    """What a value is, for messages, and where its class is from: many are called LSTM."""
    origin = (value if isinstance(value, type) else type(value)).__module__
    return kind_of(value) if origin == "builtins" else f"{kind_of(value)} of {origin}"


def name_of_activation(activation: Any) -> str:
    """What a simple RNN's activation is called; of one that is not this package's, its own name."""
    if isinstance(activation, str):
        return activation
    names = (getattr(activation, attribute, None) for attribute in ("name", "__name__"))
    return next((str(name) for name in names if name), type(activation).__name__)


def _check_lstm(cell: Any, to: str) -> None:
    """Raises ValueError if an LSTM is of a variant that only this package has."""
    if cell.peephole is not None:
        variant, fix = "peephole=True", "peephole=False"
    elif "input" not in cell.blocks:
        variant, fix = "coupled=True", "coupled=False"
    elif "forget" not in cell.blocks:
        variant, fix = "forget_gate=False", "forget_gate=True"
    elif cell.truncated:
        variant, fix = "truncated=True", "truncated=False"
    else:
        return
    raise ValueError(
        f"an LSTM that goes to {to} must have input, forget and output gates that see x and h "
        f"alone; got one with {variant}. {to} has no such cell: train one with {fix}, or save "
        "this one by rnn_jax.save."
    )


def check_gated(cell: CellWeights, to: str) -> None:
    """Raises ValueError if a gated cell has other activations than a library's."""
    if cell.kind == "rnn":
        return
    for name, right, function in (
        ("gate_fn", "sigmoid", cell.gate),
        ("activation_fn", "tanh", cell.activation),
    ):
        if not computes(function, right):
            raise ValueError(
                f"a gated cell that goes to {to} must have {name}={right!r}; got "
                f"{name_of_activation(function)!r}. Train one with {right}, or save this one by "
                "rnn_jax.save."
            )


def as_numpy(name: str, value: Any) -> np.ndarray:
    """A weight of any library as a NumPy array of floats, its bits as they were.

    Args:
      name: of the weight, for messages.
      value: an array, or a tensor: what has `detach`, `cpu` and `numpy`.

    Raises:
      TypeError: it holds no real floating-point numbers.
      ValueError: its type is one that JAX is not set to compute in.
    """
    if hasattr(value, "detach"):
        value = _from_tensor(name, value)
    elif isinstance(value, nnx.Variable):
        value = value[...]
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"weights must be numbers when they are converted; got {name} traced by jit, grad or "
            "vmap. Convert outside of the function that is transformed."
        )
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"weights must hold real floating-point numbers; got {name} of type "
            f"{array.dtype if array.dtype != object else type(value).__name__}. Pass the arrays or "
            "tensors of floats themselves."
        )
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"weights must be of a type that JAX is set to compute in; got {name} of type "
            f'{array.dtype.name}. Enable it, jax.config.update("jax_enable_x64", True), or cast '
            "the weights to float32 first."
        )
    return array


def _from_tensor(name: str, tensor: Any) -> np.ndarray:
    """A tensor of PyTorch as a NumPy array."""
    try:
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) != "torch.bfloat16":
            return np.asarray(tensor.numpy())
        # NumPy has no bfloat16 of its own; float32 holds all its numbers.
        return np.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    except (RuntimeError, TypeError) as error:  # On the device meta, quantized, sparse.
        raise TypeError(
            f"weights must be dense tensors of floats; got {name}, which has no such numbers "
            f"({error}). Load or convert the network first."
        ) from error


def sum_of_biases(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """first + second, each as it is where the other is 0: −0 + 0 would be 0, not −0."""
    return np.where(second == 0, first, np.where(first == 0, second, first + second))


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], why: str) -> np.ndarray:
    """Returns the array if it has this shape, else raises ValueError."""
    if array.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape}, {why}; got {array.shape}. Pass the weights of one "
            "and the same network."
        )
    return array


def check_names(what: str, there: Any, expected: Any, fix: str) -> None:
    """Raises ValueError unless the names that arrived are those that are expected."""
    unknown = [name for name in there if name not in expected]
    missing = [name for name in expected if name not in there]
    if unknown or missing:
        said = [f"{_first(unknown)} unknown"] if unknown else []
        said += [f"{_first(missing)} missing"] if missing else []
        raise ValueError(
            f"{what} must hold {_first(expected, 6)}; got one with {' and '.join(said)}. {fix}"
        )


def _first(names: Any, count: int = 3) -> str:
    """The first few names in words."""
    shown = ", ".join(list(names)[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"
