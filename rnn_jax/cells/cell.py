"""What a cell is, and the base class of the cells that this package brings.

Everywhere in the package a *cell* is any callable `cell(carry, x) -> (carry, y)` whose arrays, if
it has any, are its pytree leaves. Nothing else is required; `Cell` writes that down as a type. The
cells defined here are Flax NNX modules (so they are pytrees) and split a step in two: `project`,
all that depends on the input alone, and `step`, the recurrence.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import promote, spread
from rnn_jax.cells.biases import bias_initializer
from rnn_jax.cells.claims import SelfDescribing
from rnn_jax.cells.structure import FusedForm
from rnn_jax.checks import (
    check_float_dtype,
    check_floats,
    check_real,
    check_rngs,
    check_size,
)
from rnn_jax.initializers import (
    Initializer,
    InitializerLike,
    MemoryGates,
    get_initializer,
    init_bias,
    init_by_gate,
)

Carry = Any

_LEFT_OUT: Any = object()


class Cell(Protocol):
    """Any callable that advances a carry by one input.

    Example:
      >>> def accumulate(h, x):  # (carry, x) -> (carry, y)
      ...     return 0.5 * h + x, 0.5 * h + x
      ...
      >>> carry, ys = rj.unroll(accumulate, xs, jnp.zeros(2))  # no method but the call is needed
      >>> rj.jacobian_log_norms(accumulate, xs, jnp.zeros(2), targets=[19]).shape
      (1, 20)
    """

    def __call__(self, carry: Any, x: Any, /) -> tuple[Any, Any]: ...


class RNNCell(nnx.RNNCellBase, SelfDescribing):
    """Base of this package's cells: h_t = step(h_{t−1}, project(x_t)).

    A subclass names its blocks (`blocks`, the gates and candidates whose pre-activations lie side
    by side in the fused kernels) and its carry's parts (`carry_parts`), and writes `step`. Where a
    part is of another shape than (H,) it says so in `carry_shapes`, and where one does not start at
    0 in `_initial_part`. The constructor makes the weights that it is given an initialiser for;
    what else the equations of a subclass have, weights of other shapes too, it makes itself.

    Args:
      in_features, hidden_features: I and H.
      blocks: names of the G blocks; none if the subclass makes its own weights.
      kernel_init: of W_x, by name or callable; left out, there is none, or the subclass makes it.
        Names may have arguments, as "gaussian(1.5)"; see `rnn_jax.initializers`.
      recurrent_kernel_init: of W_h, likewise.
      bias_init: of b, by name or callable.
      default_bias_init: what bias_init=None stands for, if it stands for something.
      use_bias: whether there is a bias; without one `bias` is None.
      dtype, carry_dtype: see the attributes.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Attributes:
      diagonal_part: the part of the carry each unit of which acts on the next step's same unit
        alone, in every part (a cell state behind gates that see it not, or by peepholes).
      memory_gates: the blocks that decide how much of the state is kept, each with 1 if it keeps
        the state where it is near 1 and −1 if it overwrites it there. The initialisers
        `forget_bias` and `chrono` set their biases.
      splits_call: whether a call is `step(carry, project(x))`, so that `unroll` may project a whole
        sequence at once. What a cell may tell of itself, and when it counts, is said in
        `rnn_jax.cells.claims`.
      in_features: I, the features of one input.
      hidden_features: H, the features of one hidden state.
      kernel: W_x, shape (I, G·H) for G blocks.
      recurrent_kernel: W_h, shape (H, G·H); of the output's features, where these are others. None
        in a cell without one; of other shape and meaning where a subclass says so, see
        `transition_kernel`.
      bias: b, shape (G·H,); None without biases.
      dtype: the type that products are computed in; None takes JAX's promotion.
      carry_dtype: the type that carries are kept and gates computed in; None is that of products.

    Example:
      >>> class DecayCell(rj.RNNCell):
      ...     def step(self, carry, z):  # h' = ½ h + ½ tanh(x W_x + b)
      ...         h = 0.5 * carry + 0.5 * jnp.tanh(z)
      ...         return h, h
      ...
      >>> decay = DecayCell(2, 8, blocks=("candidate",), kernel_init="normal(1)", rngs=nnx.Rngs(0))
      >>> jacobian = rj.linearize(decay, xs).state_jacobians[0]
      >>> bool(jnp.allclose(jacobian, 0.5 * jnp.eye(8)))
      True
    """

    blocks: tuple[str, ...]
    carry_parts: tuple[str, ...] = ("h",)
    diagonal_part: str | None = None
    memory_gates: MemoryGates = ()
    splits_call: bool = True

    # Of the class, because Flax allows no weight in an attribute of an object that was None.
    kernel: nnx.Param[jax.Array] = None  # type: ignore[assignment]
    recurrent_kernel: nnx.Param[jax.Array] = None  # type: ignore[assignment]
    bias: nnx.Param[jax.Array] = None  # type: ignore[assignment]

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        blocks: tuple[str, ...] = (),
        kernel_init: InitializerLike = _LEFT_OUT,
        recurrent_kernel_init: InitializerLike = _LEFT_OUT,
        bias_init: InitializerLike | None = "zeros",
        default_bias_init: InitializerLike | None = None,
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        size_in = self.in_features = check_size("in_features", in_features)
        size = self.hidden_features = check_size("hidden_features", hidden_features)
        self.blocks = blocks
        self.param_dtype = kind = check_float_dtype(
            "param_dtype", float if param_dtype is None else param_dtype
        )
        self.dtype = None if dtype is None else check_float_dtype("dtype", dtype)
        self.carry_dtype = (
            None if carry_dtype is None else check_float_dtype("carry_dtype", carry_dtype)
        )
        check_rngs(rngs)
        init = {
            name: get_initializer(name, value)
            for name, value in (
                ("kernel_init", kernel_init),
                ("recurrent_kernel_init", recurrent_kernel_init),
            )
            if value is not _LEFT_OUT
        }
        of_bias = bias_initializer(use_bias, bias_init, default_bias_init)
        gates = len(blocks)

        def kernel(name: str, rows: int) -> nnx.Param[jax.Array]:
            return nnx.Param(init_by_gate(name, init[name], rngs.params(), rows, size, gates, kind))

        if "kernel_init" in init:
            self.kernel = kernel("kernel_init", size_in)
        if "recurrent_kernel_init" in init:
            self.recurrent_kernel = kernel("recurrent_kernel_init", self.output_features)
        if blocks:
            # Drawn in any case, so that all other weights are the same with biases and without.
            key = rngs.params()
            if of_bias is not None:
                self.bias = nnx.Param(
                    init_bias("bias_init", of_bias, key, size, blocks, self.memory_gates, kind)
                )

    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Advances the carry by one input: `step(carry, project(x))`.

        Args:
          carry: the state before the step; each part (..., H), or as `carry_shapes` says.
          x: the input, (..., I); whole numbers and booleans are promoted to the type of the
            parameters.

        Returns:
          (carry after the step, output h of shape (..., H), of `output_features` in general).

        Raises:
          ValueError: x or a part of the carry has another shape.
          TypeError: x does not hold real numbers, or the carry no floating-point numbers.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        return self.step(carry, z)

    def project(self, x: jax.Array) -> jax.Array:
        """All that depends on the input alone: z = x W_x + b.

        Over a whole sequence this is one matrix product, which `unroll` hoists out of its loop.

        Args:
          x: inputs, (..., I).

        Returns:
          Pre-activations, (..., G·H).

        Raises:
          ValueError: x does not have `in_features` features.
          TypeError: x does not hold real numbers.
        """
        z = self._input_product(x)
        return z if self.bias is None else z + spread(self.bias[...], z)

    def step(self, carry: Carry, z: jax.Array) -> tuple[Carry, jax.Array]:
        """The recurrence: one step from the carry and a projected input.

        Args:
          carry: the state before the step; each part (..., H), or as `carry_shapes` says.
          z: `project(x)`, (..., G·H).

        Returns:
          (carry after the step, output of shape (..., H)).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step(carry, z).")

    def fused_form(self) -> FusedForm | None:
        """The cell in the form that `unroll` runs and differentiates fastest; None if it has none.

        It must say the same as `step`, which stays the definition.
        """
        return None

    def transition_kernel(self) -> jax.Array | None:
        """The matrix that multiplies the state in a step, (H, G·H), one block for each of G gates.

        Returns:
          W_h, or what the cell makes of its `recurrent_kernel`; of the output's features, where
          these are others than H. None where a step has no such matrix: each unit sees itself
          alone, or several parts of the carry meet weights.
        """
        return None if self.recurrent_kernel is None else self.recurrent_kernel[...]

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """The initial carry for inputs of a given shape: that of the equations, mostly zero.

        Args:
          input_shape: (..., I), the shape of one input.
          rngs: source of randomness for `carry_init`; unused without it.
          carry_init: (key, shape, dtype) -> array, one call for each part of the carry.

        Returns:
          One array of shape (..., H), or a tuple of them in the order of `carry_parts`.

        Raises:
          ValueError: a `carry_init` without `rngs`.
          TypeError: `input_shape` is no tuple.
        """
        if not _is_sequence(input_shape):
            raise TypeError(
                "input_shape must be a tuple (..., I); got "
                f"{input_shape!r} of type {type(input_shape).__name__}. Pass x.shape."
            )
        dtype = self.carry_dtype or self.dtype or self.param_dtype
        batch = tuple(input_shape[:-1])
        shapes = {part: (*batch, *own) for part, own in self.carry_shapes.items()}
        if carry_init is None:
            parts = [self._initial_part(part, shape, dtype) for part, shape in shapes.items()]
        elif rngs is None:
            raise ValueError("carry_init needs a key; got rngs=None. Pass rngs=nnx.Rngs(0).")
        else:
            draw = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
            parts = [carry_init(draw(), shape, dtype) for shape in shapes.values()]
        return tuple(parts) if len(parts) > 1 else parts[0]

    @property
    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each part of the carry of one sequence, in the order of `carry_parts`."""
        sizes = {"h": self.output_features}
        return {part: (sizes.get(part, self.hidden_features),) for part in self.carry_parts}

    @property
    def output_features(self) -> int:
        """The features of one output h, which the recurrent kernel sees: H if nothing is between.

        An `LSTMCell` with a projection has fewer.
        """
        return self.hidden_features

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing axes of an input that are features: 1."""
        return 1

    def _initial_part(self, part: str, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Where a part of the carry starts: at 0."""
        del part
        return jnp.zeros(shape, dtype)

    def _input_product(self, x: jax.Array) -> jax.Array:
        """x W_x without a bias, (..., G·H); raises as `project`."""
        self._check_input(x)
        return self._product(x, self.kernel[...])

    def _product(self, values: jax.Array, kernel: jax.Array) -> jax.Array:
        """values · kernel: multiplied in `dtype`, and added up in `carry_dtype` if there is one."""
        operands = promote(values, kernel, dtype=self.dtype)
        if self.carry_dtype is None:
            return jnp.matmul(*operands)
        return jnp.matmul(*operands, preferred_element_type=self.carry_dtype)

    def _kept(self, *parts: jax.Array) -> list[jax.Array]:
        """Parts of the carry and pre-activations in the type that a step keeps them in."""
        if self.carry_dtype is not None:
            return promote(*parts, dtype=self.carry_dtype)
        matrices = (self.recurrent_kernel, self.kernel)
        kind = next((w[...].dtype for w in matrices if w is not None), self.param_dtype)
        weights = jax.ShapeDtypeStruct((), kind)
        common = jnp.result_type(*parts, weights) if self.dtype is None else self.dtype
        return promote(*parts, dtype=common)

    def _bias_row(self) -> jax.Array:
        """The row of a fused kernel that meets 1, (1, G·H): b, or 0 without biases."""
        if self.bias is None:
            return jnp.zeros_like(self.kernel[...][:1])
        return self.bias[...][None]

    def _whole_kernel(self) -> jax.Array:
        """W_h, W_x and b below one another, (H + I + 1, G·H), as `FusedForm` has a kernel."""
        rows = (self.recurrent_kernel[...], self.kernel[...], self._bias_row())
        return jnp.concatenate(promote(*rows))

    def _check_input(self, x: jax.Array) -> None:
        """Raises unless x is real numbers of I features."""
        check_real("x", x)
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of x must hold the cell's in_features={self.in_features}; got "
                f"shape {x.shape}. Pass x of shape (..., {self.in_features}) or build the cell "
                f"with in_features={x.shape[-1] if x.ndim else 1}."
            )

    def _check_carry(self, carry: Carry, x: jax.Array) -> None:
        """Raises unless the carry has this cell's parts, each with the batch axes of x."""
        own = self.carry_shapes
        expected = [(*x.shape[:-1], *shape) for shape in own.values()]
        parts = carry if len(own) > 1 else (carry,)
        shapes = [getattr(part, "shape", None) for part in parts] if _is_sequence(parts) else []
        if shapes != expected:
            named = zip(own, expected, strict=True)
            rule = ", ".join(f"{part} of shape {shape}" for part, shape in named)
            arrived = jax.tree.map(lambda a: getattr(a, "shape", type(a).__name__), carry)
            if len(own) > 1:
                rule = f"({', '.join(own)}), {rule}"
            raise ValueError(
                f"carry must be {rule}; got {arrived}. Start from cell.initialize_carry({x.shape})."
            )
        for name, part in zip(own, parts, strict=True):
            check_floats(f"carry part {name}", part)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list))
