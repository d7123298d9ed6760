"""Long short-term memory, in its published forms."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.activations import ActivationLike, computes, get_activation, is_known_by_element
from rnn_jax.cells.biases import offset_bias
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_flag, check_size
from rnn_jax.initializers import InitializerLike, MemoryGates, get_initializer, initialize

LSTMCarry = tuple[jax.Array, jax.Array]


class LSTMCell(RNNCell):
    """Long short-term memory: a cell state c behind forget, input and output gates.

    i = σ(x W_xi + h W_hi + b_i)        input gate
    f = σ(x W_xf + h W_hf + b_f)        forget gate
    g = tanh(x W_xg + h W_hg + b_g)     candidate
    c' = f ∘ c + i ∘ g
    o = σ(x W_xo + h W_ho + b_o)        output gate
    h' = o ∘ tanh(c')

    The carry is (c, h), and the path ∂c_t/∂c_{t−1} ⊇ diag(f_t) is what keeps gradients alive. The
    blocks lie in the fused kernels in the order input, forget, candidate, output, each initialised
    on its own. With another `gate_fn` it stands for σ, with another `activation_fn` for both tanh.

    With a projection to P features, h' = (o ∘ tanh(c')) W_p: the carry is (c: H, h: P), the output
    is h, and W_h has P rows.

    Args:
      in_features: I.
      hidden_features: H.
      forget_bias: added to the forget gate's initial bias (Gers et al., 2000; Jozefowicz et al.,
        2015), one finite number. It is part of `bias` from then on and is trained with it; without
        biases there is none, and only the default may stand here. A `bias_init` that sets the gate
        by itself, "forget_bias(2)" or "chrono(1, 200)", takes the default's place.
      peephole: gates see the cell state through `peephole`, one diagonal row for each gate: input
        and forget gates see c, the output gate sees c' (Gers and Schmidhuber, 2000).
      coupled: one gate for both, i = 1 − f; the input block is absent.
      forget_gate: False is the cell of 1997, c' = c + i ∘ g; the forget block is absent.
      truncated: True is the gradient of 1997: no derivative goes through what blocks and peepholes
        see of the state. Gradients then go back in time along c alone, and every measure of them is
        of that truncated gradient. Values are the same; set the attribute to False to measure what
        the trained network does.
      gate_fn: σ of the gates, by name, as an `Activation`, or any callable.
      activation_fn: of the candidate and of the cell state on its way out, likewise. With any other
        than sigmoid and tanh, sequences are scanned as they are, without the fused form.
      projection: P, the features of h if a linear map W_p, `projection_kernel` of shape (H, P),
        makes it (Sak et al., 2014; PyTorch's `proj_size`); None is without one.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name, as "orthogonal" or
        "gaussian(1.5)", or callable; see `rnn_jax.initializers`;
        `kernel_init` of W_p too.
      use_bias: whether there are biases; without them `bias` is None, and no forget bias.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products. With dtype=bfloat16 and carry_dtype=float32, products of bfloat16 are added up in
        float32, and the carry forgets nothing to rounding.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, `coupled` without a forget gate, or initial
        biases of a cell without biases.
      TypeError: a size that is no int, a forget bias that is no number, a flag that is no bool, an
        `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> lstm = rj.LSTMCell(2, 8, forget_bias=2.0, rngs=nnx.Rngs(0))
      >>> c, h = lstm.initialize_carry((2,))
      >>> sorted(lstm.gates((c, h), xs[0]))
      ['forget', 'input', 'output']
      >>> kept = lstm.memory_path((c, h), jnp.zeros(2))["c"]  # the forget gate
      >>> round(float(kept.mean()), 3)  # σ(2)
      0.881

    References:
      S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997 (and the truncated gradient).
      F. Gers, J. Schmidhuber and F. Cummins, "Learning to forget", 2000.
      F. Gers and J. Schmidhuber, "Recurrent nets that time and count", 2000.
      H. Sak, A. Senior and F. Beaufays, "Long short-term memory recurrent neural network
      architectures for large scale acoustic modeling", 2014 (the projection).
      K. Greff et al., "LSTM: a search space odyssey", 2017 (the coupled variant).
    """

    carry_parts = ("c", "h")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        forget_bias: float = 1.0,
        peephole: bool = False,
        coupled: bool = False,
        forget_gate: bool = True,
        truncated: bool = False,
        gate_fn: ActivationLike = "sigmoid",
        activation_fn: ActivationLike = "tanh",
        projection: int | None = None,
        kernel_init: InitializerLike = "lecun_normal",
        recurrent_kernel_init: InitializerLike = "orthogonal",
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        for name, flag in (
            ("peephole", peephole),
            ("coupled", coupled),
            ("forget_gate", forget_gate),
            ("truncated", truncated),
        ):
            check_flag(name, flag)
        if coupled and not forget_gate:
            raise ValueError(
                "coupled=True sets the input gate to 1 − forget gate, so it needs a forget gate; "
                "got forget_gate=False as well. Drop one of the two."
            )
        self.truncated = truncated
        self.gate_fn = get_activation(gate_fn, "gate_fn")
        self.activation_fn = get_activation(activation_fn, "activation_fn")
        self.projection = None if projection is None else check_size("projection", projection)
        present = {"input": not coupled, "forget": forget_gate, "candidate": True, "output": True}
        super().__init__(
            in_features,
            hidden_features,
            blocks=tuple(name for name, here in present.items() if here),
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        size = self.hidden_features
        if forget_gate:
            offset_bias(self, "forget_bias", forget_bias, "forget", bias_init, default=1.0)
        self.peephole = (
            nnx.Param(jnp.zeros((len(self.blocks) - 1, size), self.param_dtype))
            if peephole
            else None
        )
        kernel = None
        if self.projection is not None:
            init, shape = get_initializer("kernel_init", kernel_init), (size, self.projection)
            kernel = initialize("kernel_init", init, rngs.params(), shape, self.param_dtype)
        self.projection_kernel = None if kernel is None else nnx.Param(kernel)

    def step(self, carry: LSTMCarry, z: jax.Array) -> tuple[LSTMCarry, jax.Array]:
        """One step of (c, h); see `RNNCell.step`."""
        c, h, _ = self._advance(carry, z)
        return (c, h), h

    @property
    def memory_gates(self) -> MemoryGates:  # type: ignore[override]
        """Forget and input gate; none of the cell of 1997, which forgets nothing."""
        return (("forget", 1), ("input", -1)) if "forget" in self.blocks else ()

    @property
    def diagonal_part(self) -> str | None:  # type: ignore[override]
        """The cell state, unless an activation or a projection may mix its units; see `RNNCell`."""
        both = (self.gate_fn, self.activation_fn)
        if self.projection_kernel is not None or not all(map(is_known_by_element, both)):
            return None
        return "c"

    def fused_form(self) -> FusedForm | None:
        """One kernel for all blocks; None with a peephole or a projection.

        The first are weights of another kind, and the second mixes units behind the gates. None,
        too, with other activations than those whose slopes are known from their values, and with a
        truncated gradient.
        """
        others = self.peephole is not None or self.projection_kernel is not None
        if others or self.truncated or not self._is_classical:
            return None
        return FusedForm(_UnitMathematics(self.blocks), (self._whole_kernel(),))

    def gates(self, carry: LSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`.

        Args:
          carry: (c, h) before the step, each (..., H), or h (..., P) with a projection.
          x: the input, (..., I).

        Returns:
          {"input", "forget", "output"}: each (..., H), in (0, 1) as sigmoids are. Without a forget
          gate there is no "forget"; with coupled gates "input" is 1 − forget.
        """
        return self._gates(carry, x)

    def memory_path(self, carry: LSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the cell state is handed on by itself: {"c": forget gate}.

        Args:
          carry: (c, h) before the step, each (..., H), or h (..., P) with a projection.
          x: the input, (..., I).

        Returns:
          {"c": (..., H)}; ones for the cell without a forget gate (the "constant error carousel").
        """
        gates = self._gates(carry, x)
        return {"c": gates["forget"] if "forget" in gates else jnp.ones_like(gates["input"])}

    def _gates(self, carry: LSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        z = self.project(x)
        self._check_carry(carry, x)
        return self._advance(carry, z)[2]

    def _advance(
        self, carry: LSTMCarry, z: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        c_prev, h_prev = carry
        c_prev, h_prev, z = self._kept(c_prev, h_prev, z)
        product = self._product(self._seen(h_prev), self.recurrent_kernel[...])
        parts = jnp.split(z + product, len(self.blocks), axis=-1)
        pre = dict(zip(self.blocks, parts, strict=True))
        gates = {}
        if "forget" in pre:
            gates["forget"] = self.gate_fn(self._peek("forget", pre, c_prev))
        if "input" in pre:
            gates["input"] = self.gate_fn(self._peek("input", pre, c_prev))
        else:
            gates["input"] = 1 - gates["forget"]
        kept = gates["forget"] * c_prev if "forget" in gates else c_prev
        c = kept + gates["input"] * self.activation_fn(pre["candidate"])
        gates["output"] = self.gate_fn(self._peek("output", pre, c))
        h = gates["output"] * self.activation_fn(c)
        if self.projection_kernel is not None:
            h = self._product(h, self.projection_kernel[...])
        return c, h, gates

    @property
    def output_features(self) -> int:
        """The features of one output h: P with a projection, else H."""
        return self.hidden_features if self.projection is None else self.projection

    @property
    def _is_classical(self) -> bool:
        """Whether gates are sigmoids and the rest is tanh."""
        return computes(self.gate_fn, "sigmoid") and computes(self.activation_fn, "tanh")

    def _peek(self, gate: str, pre: dict[str, jax.Array], c: jax.Array) -> jax.Array:
        """A gate's pre-activation, with what it sees of the cell state if it has a peephole."""
        if self.peephole is None:
            return pre[gate]
        row = [name for name in self.blocks if name != "candidate"].index(gate)
        weights = self.peephole[...][row].astype(c.dtype)
        return pre[gate] + jnp.broadcast_to(weights, c.shape) * self._seen(c)

    def _seen(self, state: jax.Array) -> jax.Array:
        """A part of the state as blocks see it."""
        return jax.lax.stop_gradient(state) if self.truncated else state


@dataclass(frozen=True)
class _UnitMathematics:
    """The LSTM without peepholes, of sigmoid and tanh, unit by unit; see `UnitMathematics`.

    ċ' = f ∘ ċ + (c ∘ f(1 − f)) ∘ u̇_f + (g ∘ i(1 − i)) ∘ u̇_i + (i ∘ (1 − g²)) ∘ u̇_g
    ḣ' = (tanh c' ∘ o(1 − o)) ∘ u̇_o + (o ∘ (1 − tanh² c')) ∘ ċ'
    """

    blocks: tuple[str, ...]

    @property
    def groups(self) -> Groups:
        return (Group(len(self.blocks), sees_state=True, sees_input=True),)

    def advance(self, carry: LSTMCarry, pre: Blocks) -> tuple[LSTMCarry, Blocks]:
        c_prev, _ = carry
        gates = {
            name: jnp.tanh(u) if name == "candidate" else jax.nn.sigmoid(u)
            for name, u in zip(self.blocks, pre, strict=True)
        }
        c = self._cell_state(c_prev, gates)
        return (c, gates["output"] * jnp.tanh(c)), tuple(gates.values())

    def coefficients(self, carry: LSTMCarry, saved: Blocks) -> Any:
        c_prev, _ = carry
        gates = dict(zip(self.blocks, saved, strict=True))
        o, g, f = gates["output"], gates["candidate"], gates.get("forget")
        i = gates["input"] if "input" in gates else 1 - gates["forget"]
        tanh_c = jnp.tanh(self._cell_state(c_prev, gates))
        slopes = {"candidate": i * (1 - g * g), "output": tanh_c * o * (1 - o)}
        if "input" in gates:
            slopes["input"] = g * i * (1 - i)
        if f is not None:
            # A coupled input gate 1 − f moves against the forget gate.
            slopes["forget"] = (c_prev if "input" in gates else c_prev - g) * f * (1 - f)
        return f, o * (1 - tanh_c * tanh_c), tuple(slopes[name] for name in self.blocks)

    def tangent(self, coefficients: Any, carry: LSTMCarry, pre: Blocks) -> LSTMCarry:
        f, through_c, slopes = coefficients
        # The output gate stands last, and it alone does not pass through the cell state.
        *into_c, into_h = (slope * u for slope, u in zip(slopes, pre, strict=True))
        c = sum(into_c, start=carry[0] if f is None else f * carry[0])
        return c, into_h + through_c * c

    def hidden(self, carry: LSTMCarry) -> jax.Array:
        return carry[1]

    def _cell_state(self, c_prev: jax.Array, gates: dict[str, jax.Array]) -> jax.Array:
        i = gates["input"] if "input" in gates else 1 - gates["forget"]
        kept = gates["forget"] * c_prev if "forget" in gates else c_prev
        return kept + i * gates["candidate"]
