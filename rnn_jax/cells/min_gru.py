"""minGRU and minLSTM: gates that see the input alone, so that a sequence is one linear scan."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm
from rnn_jax.checks import check_flag
from rnn_jax.initializers import InitializerLike


def positive(x: jax.Array) -> jax.Array:
    """g(x) = x + ½ for x ≥ 0, else σ(x); continuous, of slope ¼ and 1 beside 0."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


class _MinimalCell(RNNCell):
    """h' = a(x) ∘ h + b(x): all that a step does but this is in `project`.

    What these cells tell of themselves they say each for itself, as claims are about the very
    `_parts` of their class.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        blocks: tuple[str, ...],
        positive_candidate: bool,
        kernel_init: InitializerLike,
        bias_init: InitializerLike,
        use_bias: bool,
        dtype: Any,
        carry_dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.positive_candidate = check_flag("positive_candidate", positive_candidate)
        super().__init__(
            in_features,
            hidden_features,
            blocks=blocks,
            kernel_init=kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def project(self, x: jax.Array) -> jax.Array:
        """The coefficients of a step that is linear in the state: a(x) and b(x) side by side.

        Args:
          x: inputs, (..., I).

        Returns:
          [a, b], (..., 2H).

        Raises:
          ValueError: x does not have `in_features` features.
          TypeError: x does not hold real numbers.
        """
        kept, taken, candidate = self._parts(x)
        return jnp.concatenate([kept, taken * candidate], axis=-1)

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """h' = a ∘ h + b; see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        a, b = self._transition(z)
        h = a * h_prev + b
        return h, h

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        a, b = jnp.split(self._kept(z)[0], 2, axis=-1)
        return a, b

    def _parts(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What is kept of the state, what is taken of the candidate, and the candidate."""
        raise NotImplementedError

    def _pre_activations(self, x: jax.Array) -> list[jax.Array]:
        return jnp.split(super().project(x), len(self.blocks), axis=-1)

    def _candidate(self, pre: jax.Array) -> jax.Array:
        return positive(pre) if self.positive_candidate else pre


class MinGRUCell(_MinimalCell):
    """minGRU: an update gate and a candidate that see the input alone.

    z = σ(x W_z)                        update gate
    h̃ = g(x W_h)                        candidate, g(v) = v + ½ for v ≥ 0, else σ(v)
    h' = (1 − z) ∘ h + z ∘ h̃,           y = h'

    The state enters linearly and unit by unit: ∂h_T/∂h_t = diag(∏ (1 − z)), so gradients never
    grow, and how far they reach depends on the inputs alone. Here z near 1 *forgets*, as the
    authors write it. With g, states stay positive if they start so, which a parallel form in log
    space needs; the initial carry is 0 unless told otherwise.

    With negative_eigenvalues the state is handed on by 1 − 2z in (−1, 1) in place of 1 − z:

    h' = (1 − 2z) ∘ h + z ∘ h̃

    A unit may then change its sign at each step, without which no diagonal linear recurrence can
    tell the parity of a sequence that is longer than those it has seen.

    Args:
      in_features: I.
      hidden_features: H.
      negative_eigenvalues: see above; not of the paper.
      positive_candidate: False takes x W_h itself for h̃, the paper's form that is not for log
        space.
      kernel_init: initialiser of W, by name or callable; blocks update and candidate, each drawn on
        its own.
      bias_init: of the biases, where there are some.
      use_bias: whether x W has a bias; not in the paper.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> mingru = rj.MinGRUCell(2, 8, rngs=nnx.Rngs(0))
      >>> form = mingru.linear_form()
      >>> form.kind, form.contracts
      ('diagonal', True)
      >>> factors, added = form.transition(mingru.project(xs))  # of all steps at once
      >>> factors.shape
      (20, 8)

    References:
      L. Feng, F. Tung, M. O. Ahmed, Y. Bengio and H. Hajimirsadeghi, "Were RNNs all we needed?",
      2024.
      R. Grazzi, J. Siems, J. K. H. Franke, A. Zela, F. Hutter and M. Pontil, "Unlocking state-
      tracking in linear RNNs through negative eigenvalues", 2024.
    """

    memory_gates = (("update", -1),)

    diagonal_part = "h"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        negative_eigenvalues: bool = False,
        positive_candidate: bool = True,
        kernel_init: InitializerLike = "lecun_normal",
        bias_init: InitializerLike = "zeros",
        use_bias: bool = False,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.negative_eigenvalues = check_flag("negative_eigenvalues", negative_eigenvalues)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("update", "candidate"),
            positive_candidate=positive_candidate,
            kernel_init=kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`: {"update": z}.

        Args:
          carry: h before the step, (..., H), which has no part in it.
          x: the input, (..., I).

        Returns:
          {"update": (..., H)}.
        """
        self._check_carry(carry, x)
        return {"update": self._parts(x)[1]}

    def linear_form(self) -> LinearForm:
        """Real and diagonal; see `rnn_jax.cells.linear`."""
        return LinearForm("diagonal", self._transition, contracts=True)

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on, which is all of its Jacobian: {"h": 1 − z}.

        With negative_eigenvalues 1 − 2z.

        Args:
          carry: h before the step, (..., H), which has no part in it.
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        self._check_carry(carry, x)
        return {"h": self._parts(x)[0]}

    def _parts(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        update, candidate = self._pre_activations(x)
        # For z = σ(v), 1 − z is σ(−v), and 1 − 2z is tanh(−v/2): no difference is rounded.
        kept = jnp.tanh(-update / 2) if self.negative_eigenvalues else jax.nn.sigmoid(-update)
        return kept, jax.nn.sigmoid(update), self._candidate(candidate)


class MinLSTMCell(_MinimalCell):
    """minLSTM: forget and input gates of the input alone, scaled to sum to 1.

    f = σ(x W_f),       i = σ(x W_i)                    gates
    f̂ = f / (f + i),    î = i / (f + i)                 so that f̂ + î = 1
    h̃ = g(x W_h)                                        candidate, g as in `MinGRUCell`
    h' = f̂ ∘ h + î ∘ h̃,                                 y = h'

    ∂h_T/∂h_t = diag(∏ f̂), so gradients never grow, and how far they reach depends on the inputs
    alone. Initially f̂ is about ½.

    Args:
      in_features: I.
      hidden_features: H.
      positive_candidate: False takes x W_h itself for h̃.
      kernel_init: initialiser of W, by name or callable; blocks forget, input and candidate, each
        drawn on its own.
      bias_init: of the biases, where there are some.
      use_bias: whether x W has a bias; not in the paper.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> minlstm = rj.MinLSTMCell(2, 8, rngs=nnx.Rngs(0))
      >>> gates = minlstm.gates(jnp.zeros(8), xs[0])
      >>> bool(jnp.allclose(gates["forget"] + gates["input"], 1))
      True

    References:
      L. Feng, F. Tung, M. O. Ahmed, Y. Bengio and H. Hajimirsadeghi, "Were RNNs all we needed?",
      2024.
    """

    memory_gates = (("forget", 1), ("input", -1))

    diagonal_part = "h"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        positive_candidate: bool = True,
        kernel_init: InitializerLike = "lecun_normal",
        bias_init: InitializerLike = "zeros",
        use_bias: bool = False,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            hidden_features,
            blocks=("forget", "input", "candidate"),
            positive_candidate=positive_candidate,
            kernel_init=kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations, scaled to sum to 1, of the step that takes `carry` and `x`.

        Args:
          carry: h before the step, (..., H), which has no part in it.
          x: the input, (..., I).

        Returns:
          {"forget": f̂, "input": î}: each (..., H).
        """
        self._check_carry(carry, x)
        forget, taken, _ = self._parts(x)
        return {"forget": forget, "input": taken}

    def linear_form(self) -> LinearForm:
        """Real and diagonal; see `rnn_jax.cells.linear`."""
        return LinearForm("diagonal", self._transition, contracts=True)

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on, which is all of its Jacobian: {"h": f̂}.

        Args:
          carry: h before the step, (..., H), which has no part in it.
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        self._check_carry(carry, x)
        return {"h": self._parts(x)[0]}

    def _parts(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        forget, into, candidate = self._pre_activations(x)
        # f / (f + i) = σ(log f − log i), where f and i may both be 0 to rounding.
        odds = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(into)
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds), self._candidate(candidate)
