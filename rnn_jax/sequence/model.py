"""Stacked cells, with an embedding before and a dense readout behind them, or without."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.arrays import affine, call_automatic, promote
from rnn_jax.cells.asking import parameter_dtype
from rnn_jax.cells.wrappers.noise import drawn_by_step, dropped
from rnn_jax.checks import (
    check_choice,
    check_flag,
    check_key,
    check_rate,
    check_rngs,
    check_size,
    kind_of,
)
from rnn_jax.initializers import InitializerLike, get_initializer, initialize
from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.calling import ArrayLike, Carry
from rnn_jax.sequence.embedding import Embedding, read_tokens
from rnn_jax.sequence.inputs import read_array
from rnn_jax.sequence.layers import cells_of, check_layers, trace_layers
from rnn_jax.sequence.masks import Marks, read_marks, valid_steps
from rnn_jax.sequence.unroll import mapped, split_for, unroll


class SequenceModel(nnx.Module):
    """Recurrent cells stacked in depth, read out by a dense layer or as they are.

    h¹ = unroll(cell₁, x),  h² = unroll(cell₂, h¹), …,    o = h_last W_o + b_o

    With all options, layer l makes of its input hˡ⁻¹ (h⁰ = x, or the embedding of a token x):

    hˡ = [hˡ⁻¹ +] [dropout] unroll(cellₗ, [layer_norm] hˡ⁻¹)

    A model takes and returns its carry. So a sequence can be run in pieces, or step by step as its
    inputs come, with what the whole of it gives:

      carry = model.initialize_carry()
      for x in stream:
          carry, output = model.step(carry, x)

    Args:
      cells: one layer, or the layers from input to output, each any cell with an initial carry (of
        this package or another, plain or wrapped; see `rnn_jax.as_cell`), or `Bidirectional`; each
        takes the features that the one below gives.
      out_features: O; None is no dense readout: outputs are then h_last, O being its features.
      readout: "last", one output from each sequence's last step, or "all", one from every step.
        Of a `Bidirectional` on top, "last" reads forward's last valid step and backward's first
        step, where either has seen the whole sequence.
      in_features: I, where the first layer does not say how many features it takes.
      embedding: V, how many tokens there are: inputs are then whole numbers in [0, V), of which a
        table (V, I) that is trained holds a vector each. None is inputs that are vectors.
      residual: add each layer's input to its output, wherever both have the same size; the other
        layers have no such path.
      layer_norm: normalise the input of each layer but the first, over its features.
      dropout: probability in [0, 1) with which each feature of the output of each layer but the
        top one is dropped, independently at each step; only where the call has a key.
      kernel_init: initialiser of W_o, by name or callable.
      rngs: source of initial weights; needed for a dense readout, layer norm and an embedding.

    Attributes:
      cells: the layers.
      in_features, out_features: I and O.
      embedding: the table, or None.

    Raises:
      ValueError: no cell, layers that do not fit, an unknown readout, a size below 1, a dropout
        outside [0, 1), or `residual` where no layer's input and output have the same size.
      TypeError: a layer that is no cell or has no initial carry, inputs of unknown size, or an
        `rngs` that is no `nnx.Rngs`.

    Example:
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> model(jnp.stack([xs, xs])).shape  # One output for each sequence
      (2, 1)
      >>> carry = model.initialize_carry()
      >>> for x in xs:  # One step at a time
      ...     carry, output = model.step(carry, x)
      >>> bool(jnp.allclose(output, model(xs), atol=1e-6))
      True

    References:
      W. Zaremba, I. Sutskever and O. Vinyals, "Recurrent neural network regularization", 2014 (the
      dropout).
      J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", 2016.
    """

    # What asks for a cell looks here; see `as_pytree`.
    takes_sequences = True

    def __init__(
        self,
        cells: Any,
        out_features: int | None = None,
        *,
        readout: str = "last",
        in_features: int | None = None,
        embedding: int | None = None,
        residual: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
        kernel_init: InitializerLike = "lecun_normal",
        rngs: nnx.Rngs | None = None,
    ):
        layers = check_layers(cells, causal=False)
        forms = trace_layers(layers, in_features, "SequenceModel")
        normalised = check_flag("layer_norm", layer_norm)
        dense = out_features is not None
        drawn = dense or normalised or embedding is not None
        source: Any = check_rngs(rngs) if drawn or rngs is not None else None
        # Marked as data, because Flax takes pytrees that are none of its own for constants.
        self.cells = nnx.List(map(nnx.data, layers))
        self.in_features, top = forms[0].taken, forms[-1]
        self.out_features = (
            top.given if out_features is None else check_size("out_features", out_features)
        )
        self.readout = check_choice("readout", readout, ("last", "all"))
        self.residual = check_flag("residual", residual)
        # Which layers have a path around them.
        self._adds = tuple(self.residual and form.taken == form.given for form in forms)
        self.dropout = check_rate("dropout", dropout)
        if self.residual and not any(self._adds):
            sizes = ", ".join(f"{form.taken} → {form.given}" for form in forms)
            raise ValueError(
                "residual=True needs a layer whose input and output have the same size, so that "
                f"they can be added; got {sizes}. Build layers with in_features equal to "
                "hidden_features, or leave residual out."
            )
        init = get_initializer("kernel_init", kernel_init)
        # W_o and b_o, or None. Flax keeps to what an attribute first is, array or not.
        self.kernel: Any = (
            None
            if not dense
            else nnx.Param(
                initialize(
                    "kernel_init", init, source.params(), (top.given, self.out_features), top.dtype
                )
            )
        )
        self.bias: Any = nnx.Param(jnp.zeros(self.out_features, top.dtype)) if dense else None
        self.norms = nnx.List(
            nnx.LayerNorm(form.taken, param_dtype=form.dtype, use_fast_variance=False, rngs=source)
            for form in (forms[1:] if normalised else [])
        )
        self.embedding = (
            None
            if embedding is None
            else Embedding(embedding, self.in_features, param_dtype=forms[0].dtype, rngs=source)
        )
        # Of a Bidirectional on top, the features that are forward's.
        self._forward = top.forward
        # What tells an ensemble, whose arrays have one axis more, from a single model.
        self._rank = _first_rank(self)

    def __call__(
        self,
        xs: ArrayLike,
        *,
        carry: Carry | None = None,
        return_carry: bool = False,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        checkpoint: int | str | None = None,
        truncate: int | None = None,
        key: jax.Array | None = None,
    ) -> Any:
        """Outputs for a batch of sequences.

        Handing the carry of each piece of a row on to the next gives what the whole row gives, as
        for `unroll`; what is counted from the start of the row that a call is given (`lengths`, the
        stretches of `truncate`, the noise that `key` draws) is counted from the piece's start.

        Args:
          xs: inputs, (..., T, I), or with an embedding tokens, (..., T).
          carry: where to go on, one carry for each layer: what the call for the steps before has
            returned. None starts a sequence.
          return_carry: also return the carry after the last step.
          lengths: valid steps of each row, counted from the first, (...); as for `unroll`.
          mask: booleans, (..., T), False at padding, wherever it lies; as for `unroll`. Readout
            "last" reads the last valid step, and of a row without any what it makes of outputs 0;
            with "all" the outputs at padding are the readout's bias, or 0 without a readout.
          resets: booleans, (..., T), first steps of sequences packed into one row, for every layer;
            as for `unroll`. Readout "last" reads a row's ends, so use "all" to read each of them.
          checkpoint, truncate: less memory for the gradient, and truncated backpropagation through
            time, in every layer; as for `unroll`.
          key: source of dropout and of the cells' noise; None is without both, as in evaluation.

        Returns:
          (..., O) for readout "last", (..., T, O) for "all"; without a dense readout O is H. With
          `return_carry`, (carry, outputs), the carry being a tuple of one for each layer.

        Raises:
          ValueError: a carry that is not one for each layer; or as `unroll`.
          TypeError: a carry for, or of, layers that see the future; or as `unroll`.
        """
        if self.ensemble_size is not None:
            raise ValueError(
                f"this is an ensemble of {self.ensemble_size} models, with a leading axis on every "
                "array; a call runs a single one. Call jax.vmap(lambda model, xs: model(xs), "
                "(0, None))(models, xs), or take one with rnn_jax.member(models, 0)."
            )
        if carry is not None or check_flag("return_carry", return_carry):
            self._check_causal()
        carries = self._check_carries(carry)
        if self.embedding is None:
            xs = read_array(xs)
            marks, axes = read_marks(xs.shape[:-1], lengths, mask, resets), xs.ndim - 2
        else:
            xs, marks = read_tokens(xs, self.embedding.size, lengths, mask, resets)
            axes = xs.ndim - 1
        key = None if key is None else check_key(key)
        options: dict[str, Any] = {"checkpoint": checkpoint, "truncate": truncate}

        def run(model: SequenceModel, *arrays: Any) -> Any:
            after, outputs = model._outputs(*arrays, **options)
            return (after, outputs) if return_carry else outputs

        return call_automatic(run, self, xs, carries, marks, key, like=xs, axes=axes)

    def initialize_carry(self, batch_shape: tuple[int, ...] = (), dtype: Any = None) -> Carry:
        """Where sequences start: one carry for each layer, for `step` and `carry=`.

        Args:
          batch_shape: the axes of inputs before time and features; () is one sequence.
          dtype: of the inputs; None is the type of the first layer's parameters.

        Returns:
          A tuple of carries, each leaf (*batch_shape, ·), from which a call gives what it gives
          without `carry`, values and gradients (a `LearnedCarry` among the layers has some).

        Raises:
          TypeError: the model has layers that see the future.
        """
        if self.embedding is not None:
            xs = jnp.zeros((*batch_shape, 1), int)
        else:
            dtype = parameter_dtype(cells_of(self.cells[0])[0]) if dtype is None else dtype
            xs = jnp.zeros((*batch_shape, 1, self.in_features), dtype)
        # A row of padding: the carry that passes by it is the one that sequences start from, in the
        # types that the layers' steps keep.
        padding = jnp.zeros((*batch_shape, 1), bool)
        return self(xs, mask=padding, return_carry=True)[0]

    def step(
        self, carry: Carry | None, x: ArrayLike, *, key: jax.Array | None = None
    ) -> tuple[Carry, jax.Array]:
        """One step, for inputs that come one after the other.

        Args:
          carry: what the step before has returned, or `initialize_carry()`; None starts a sequence.
          x: one input, (..., I), or with an embedding one token, (...).
          key: source of noise for this step; None is without.

        Returns:
          (carry, output (..., O)), the output being that of this step, whatever `readout` is.

        Raises:
          ValueError, TypeError: as for a call.
        """
        value: Any = x if hasattr(x, "ndim") else np.asarray(x)
        if self.embedding is None and value.ndim < 1:
            raise ValueError(
                f"x must be the input of one step, (..., {self.in_features}); got a number. Pass "
                "its features as an array."
            )
        xs = value[..., None] if self.embedding is not None else value[..., None, :]
        carry, outputs = self(xs, carry=carry, return_carry=True, key=key)
        return carry, outputs if self.readout == "last" else jnp.squeeze(outputs, -2)

    def _outputs(
        self,
        xs: jax.Array,
        carries: tuple[Carry | None, ...],
        marks: Marks,
        key: jax.Array | None,
        **how: Any,
    ) -> tuple[Carry, jax.Array]:
        """(carry, outputs) of a call, of what it was given, checked."""
        depth = len(self.cells)
        valid = valid_steps(marks, xs.shape[-2] if self.embedding is None else xs.shape[-1])
        h = xs if self.embedding is None else self.embedding(xs, valid)
        options = {"lengths": marks.lengths, "mask": marks.mask, "resets": marks.resets, **how}
        keys = [None] * depth if key is None else jax.random.split(key, depth)
        after = []
        for level, (layer, start, layer_key) in enumerate(
            zip(self.cells, carries, keys, strict=True)
        ):
            cell_key, drop_key = (None, None) if key is None else jax.random.split(layer_key)
            into = self._normalised(level, h)
            run = layer if isinstance(layer, Bidirectional) else functools.partial(unroll, layer)
            last, ys = run(into, start, key=cell_key, **options)
            after.append(last)
            if drop_key is not None and self.dropout and level + 1 < depth:
                ys = _drop(ys, drop_key, self.dropout)
            if self._adds[level]:
                ys, h = promote(ys, h)
                ys = ys + _without_padding(h, valid)
            h = ys
        if self.readout == "last":
            h = self._at_the_end(h, valid)
        if self.kernel is not None:
            h = affine(*promote(h, self.kernel[...], self.bias[...]))
        return tuple(after), h

    @property
    def ensemble_size(self) -> int | None:
        """E, if all arrays have a leading axis, as `rnn_jax.ensemble` gives them; else None."""
        if _first_rank(self) <= self._rank:
            return None
        return jax.tree.leaves(self)[0].shape[0]

    def _normalised(self, level: int, h: jax.Array) -> jax.Array:
        """The input of a layer, normalised if it is to be."""
        if not self.norms or level == 0:
            return h
        # Flax's layer promotes float64 to itself by way of float32, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return self.norms[level - 1](h)

    def _at_the_end(self, hs: jax.Array, valid: jax.Array | None) -> jax.Array:
        """The top layer's outputs where they have seen whole rows, (..., H)."""
        last = hs[..., -1, :] if valid is None else _at(hs, _last_of(valid))
        top = self.cells[-1]
        if not isinstance(top, Bidirectional):
            return last
        first = hs[..., 0, :] if valid is None else _at(hs, jnp.argmax(valid, axis=-1))
        return jnp.concatenate([last[..., : self._forward], first[..., self._forward :]], axis=-1)

    def _check_carries(self, carry: Carry | None) -> tuple[Carry | None, ...]:
        """A carry for each layer, or None for the layers' own."""
        if carry is None:
            return (None,) * len(self.cells)
        several = isinstance(carry, (tuple, list))
        if not several or len(carry) != len(self.cells):
            raise ValueError(
                f"carry must be a tuple of {len(self.cells)} carries, one for each layer; got "
                f"{f'{len(carry)} of them' if several else kind_of(carry)}. Pass what a call with "
                "return_carry=True has returned, or model.initialize_carry()."
            )
        return tuple(carry)

    def _check_causal(self) -> None:
        """Raises TypeError if a layer sees the future."""
        for depth, layer in enumerate(self.cells):
            if isinstance(layer, Bidirectional):
                raise TypeError(
                    "a model needs layers that go from the past to the future to be run in pieces; "
                    f"got a carry asked of layer {depth}, a Bidirectional, whose backward cell "
                    "starts at the end of the whole sequence. Call the model on whole sequences, "
                    "without carry= and return_carry=, or build it of cells that go forward."
                )


def _first_rank(model: SequenceModel) -> int:
    """The rank of the first of a model's arrays; 0 if it has none."""
    return next((getattr(leaf, "ndim", 0) for leaf in jax.tree.leaves(model)), 0)


def _drop(ys: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Each feature of each step dropped with probability `rate`, the rest scaled up."""
    *batch, steps, features = ys.shape
    shapes = [(features,)]
    draw = functools.partial(drawn_by_step, probabilities=(rate,), steps=steps, shapes=shapes)
    (drop,) = mapped(draw, len(batch))(split_for(tuple(batch), key))
    return dropped(ys, drop, rate)


def _without_padding(h: jax.Array, valid: jax.Array | None) -> jax.Array:
    """0 at skipped steps: the model's input may hold anything there, NaN too."""
    if valid is None:
        return h
    return jnp.where(jnp.broadcast_to(valid[..., None], h.shape), h, jnp.zeros_like(h))


def _last_of(valid: jax.Array) -> jax.Array:
    """The index of the last True along the last axis; the last index if there is none."""
    return valid.shape[-1] - 1 - jnp.argmax(jnp.flip(valid, axis=-1), axis=-1)


def _at(hs: jax.Array, index: jax.Array) -> jax.Array:
    """The output at one step of each row, (..., H); in a row without valid steps all are 0."""
    index = jnp.broadcast_to(index[..., None, None], (*hs.shape[:-2], 1, hs.shape[-1]))
    return jnp.take_along_axis(hs, index, axis=-2)[..., 0, :]
