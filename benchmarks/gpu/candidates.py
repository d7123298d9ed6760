"""The same recurrence in each library, with the same weights: what is timed and held together.

A candidate compiles, says what it computes, as NumPy arrays in this package's layout, so that all
candidates of a row can be compared before any is timed, and runs n times in a row.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.experimental import rnn as cudnn

import rnn_jax as rj

# (batch, steps, input features, hidden features)
Shape = tuple[int, int, int, int]
# By name, in this package's layout: "outputs" (B, T, H); "dW_x" (I, G·H), "dW_h" (H, G·H).
Results = Mapping[str, np.ndarray]
Outputs = Callable[[Any, jax.Array], jax.Array]

KINDS: dict[str, Callable[..., rj.RNNCell]] = {
    "LSTM": rj.LSTMCell,
    "GRU": rj.GRUCell,
    "simple RNN": rj.SimpleRNNCell,
}
torch: Any = import_module("torch") if find_spec("torch") else None

# Of float32 products: one pass of TF32, three passes of bfloat16, or all of float32's digits. The
# largest relative deviation at which two candidates can still be the same computation: far above
# rounding, which grows with the steps, and far below a gate in the wrong place.
TOLERANCES = {"default": 5e-2, "high": 5e-3, "highest": 5e-3}


class Candidate(NamedTuple):
    """One column of a row.

    Attributes:
      compile: traces and compiles, beside those of other candidates; runs nothing.
      results: what it computes.
      run: n times in a row, then waits for the last.
      precision: of its products: "default", "high" or "highest".
    """

    compile: Callable[[], None]
    results: Callable[[], Results]
    run: Callable[[int], None]
    precision: str


def nothing() -> None:
    """To compile, of a candidate that is compiled when it first runs, or not at all."""


class Problem(NamedTuple):
    """Weights and inputs of a row; the sum of the outputs is what is differentiated.

    Attributes:
      kind: of the cell.
      cell: with the weights that every candidate gets, in float32.
      xs: (B, T, I), in float32.
      gradient: by the weights; else the outputs alone are computed.
    """

    kind: str
    cell: rj.RNNCell
    xs: jax.Array
    gradient: bool


# Makes a candidate; what cannot be made raises, and that is what its column then shows.
Make = Callable[[Problem], Candidate]


def problem(kind: str, shape: Shape, *, gradient: bool) -> Problem:
    """A cell with random biases, too, or an error in those would pass unseen."""
    batch, steps, features, size = shape
    cell = KINDS[kind](features, size, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    keys = iter(jax.random.split(jax.random.key(1), 3))
    for name in ("bias", "candidate_recurrent_bias"):
        bias = getattr(cell, name, None)
        if bias is not None:
            drawn = jax.random.normal(next(keys), bias[...].shape, jnp.float32)
            bias[...] = bias[...] + jnp.float32(0.1) * drawn
    return Problem(kind, cell, inputs((batch, steps, features)), gradient)


def widened(kind: str, cell: rj.RNNCell) -> rj.RNNCell:
    """The same cell in float64; call it where `jax.enable_x64` is set."""
    sizes = (cell.in_features, cell.hidden_features)
    wide = KINDS[kind](*sizes, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    leaves = [jnp.asarray(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(cell)]
    return jax.tree.unflatten(jax.tree.structure(wide), leaves)


def inputs(shape: tuple[int, ...]) -> jax.Array:
    """Normal inputs."""
    return jax.random.normal(jax.random.key(0), shape, jnp.float32)


def candidates(kind: str) -> dict[str, Make]:
    """By name, all that have this cell; the first one is what the others are held against."""
    found: dict[str, Make] = {
        "scan, highest": partial(_ours, "scan", "highest"),
        "scan": partial(_ours, "scan", "default"),
        "kernel": partial(_ours, "kernel", "default"),
        "kernel, high": partial(_ours, "kernel", "high"),
        "kernel, highest": partial(_ours, "kernel", "highest"),
    }
    found["PyTorch"] = partial(_torch, True)
    found["PyTorch, no TF32"] = partial(_torch, False)
    if kind == "LSTM":
        found["jax.experimental.rnn"] = _cudnn
    return found | {"Flax": _linen}


def with_precision(precision: str) -> Any:
    """The context in which JAX's products have it; "default" leaves JAX as it is."""
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


def of_jax(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    read: Callable[[Any], Results],
    precision: str,
) -> Candidate:
    """A candidate that is one compiled function of arrays."""

    def computed(*arguments: Any) -> Any:
        with with_precision(precision):
            return function(*arguments)

    compiled: list[Any] = []

    def compile() -> None:
        compiled.append(jax.jit(computed).lower(*arguments).compile())

    def run(times: int) -> None:
        call = compiled[0]
        for _ in range(times):
            result = call(*arguments)
        # One device computes one after another: when the last is ready, all are.
        jax.block_until_ready(result)

    return Candidate(compile, lambda: read(compiled[0](*arguments)), run, precision)


def _outputs_or_gradient(
    problem: Problem,
    outputs: Outputs,
    weights: Any,
    kernels: Callable[[Any], tuple[Any, Any]],
    precision: str,
) -> Candidate:
    """Of a function that runs the sequence in JAX; `kernels` finds (W_x, W_h) in its weights."""
    if not problem.gradient:
        return of_jax(outputs, (weights, problem.xs), _read_outputs, precision)

    def read(gradient: Any) -> Results:
        dw_x, dw_h = kernels(gradient)
        return {"dW_x": np.asarray(dw_x), "dW_h": np.asarray(dw_h)}

    by_weights = jax.grad(lambda weights, xs: jnp.sum(outputs(weights, xs)))
    return of_jax(by_weights, (weights, problem.xs), read, precision)


def _read_outputs(ys: Any) -> Results:
    return {"outputs": np.asarray(ys)}


def by_leaves(cell: rj.RNNCell, implementation: str) -> tuple[Outputs, Any, Any]:
    """`unroll` as a function of arrays, so that flattening a module is not timed with each call.

    Returns:
      (outputs(leaves, xs), the leaves, the structure that makes them a cell).
    """
    leaves, structure = jax.tree.flatten(cell)

    def outputs(leaves: Any, xs: jax.Array) -> jax.Array:
        cell = jax.tree.unflatten(structure, leaves)
        ys: jax.Array = rj.unroll(cell, xs, implementation=implementation)[1]
        return ys

    return outputs, leaves, structure


def _ours(implementation: str, precision: str, problem: Problem) -> Candidate:
    outputs, leaves, structure = by_leaves(problem.cell, implementation)

    def kernels(leaves: Any) -> tuple[Any, Any]:
        cell = jax.tree.unflatten(structure, leaves)
        return cell.kernel[...], cell.recurrent_kernel[...]

    return _outputs_or_gradient(problem, outputs, leaves, kernels, precision)


def _linen(problem: Problem) -> Candidate:
    cell, variables = rj.convert.to_flax(problem.cell, api="linen")
    model = linen.RNN(cell)

    def outputs(params: Any, xs: jax.Array) -> jax.Array:
        return model.apply({"params": {"cell": params}}, xs)  # type: ignore[return-value]

    def kernels(params: Any) -> tuple[Any, Any]:
        read: Any = rj.convert.from_flax(cell, {"params": params})
        return read.kernel[...], read.recurrent_kernel[...]

    return _outputs_or_gradient(problem, outputs, variables["params"], kernels, "default")


def _cudnn(problem: Problem) -> Candidate:
    """cuDNN's LSTM through JAX; its own reference implementation where there is no cuDNN."""
    batch, steps, features = problem.xs.shape
    cell = problem.cell
    size = cell.hidden_features
    matrices = (cell.kernel[...].T, cell.recurrent_kernel[...].T)
    biases = (cell.bias[...], jnp.zeros_like(cell.bias[...]))
    weights = jnp.concatenate([jnp.ravel(part) for part in (*matrices, *biases)])
    lengths = jnp.full(batch, steps, jnp.int32)
    zero = jnp.zeros((1, batch, size), jnp.float32)

    def outputs(weights: jax.Array, xs: jax.Array) -> jax.Array:
        if jax.default_backend() == "gpu":
            return cudnn.lstm(xs, zero, zero, weights, lengths, features, size, 1, 0.0, False)[0]
        parts = cudnn.unpack_lstm_weights(weights, features, size, 1, False)
        return cudnn.lstm_ref(xs, zero, zero, *parts, lengths, features, size, 1, 0.0, False)[0]

    def kernels(weights: jax.Array) -> tuple[Any, Any]:
        w_ih, w_hh, _, _ = cudnn.unpack_lstm_weights(weights, features, size, 1, False)
        return w_ih[0].T, w_hh[0].T

    return _outputs_or_gradient(problem, outputs, weights, kernels, "default")


def _torch(tf32: bool, problem: Problem) -> Candidate:
    """PyTorch's module, which is cuDNN's on a GPU."""
    if torch is None:
        raise RuntimeError("there is no PyTorch")
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU")
    device = "cuda" if on_gpu else "cpu"
    module = rj.convert.to_torch([problem.cell]).to(device)
    module.flatten_parameters()
    xs = torch.from_numpy(np.array(problem.xs)).to(device)

    def once() -> Any:
        if not problem.gradient:
            with torch.no_grad():
                return module(xs)[0]
        module.zero_grad()
        module(xs)[0].sum().backward()
        return None

    def allow() -> None:
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32

    def run(times: int) -> None:
        allow()
        for _ in range(times):
            once()
        if on_gpu:
            torch.cuda.synchronize()

    def results() -> Results:
        allow()
        ys = once()
        if not problem.gradient:
            return {"outputs": ys.cpu().numpy()}
        grads = {name: p.grad.cpu().numpy().T for name, p in module.named_parameters()}
        return {"dW_x": grads["weight_ih_l0"], "dW_h": grads["weight_hh_l0"]}

    return Candidate(nothing, results, run, "default" if tf32 else "highest")
