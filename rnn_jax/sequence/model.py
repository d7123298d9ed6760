"""Stacked cells, with a dense readout or without."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import call_automatic
from rnn_jax.cells.cell import RNNCell, affine, promote
from rnn_jax.cells.wrappers.noise import drawn_by_step, dropped
from rnn_jax.cells.wrappers.wrapper import CellWrapper
from rnn_jax.checks import check_choice, check_flag, check_key, check_rate, check_rngs, check_size
from rnn_jax.initializers import InitializerLike, get_initializer, initialize
from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.calling import ArrayLike, as_sequence
from rnn_jax.sequence.layers import check_layers
from rnn_jax.sequence.masks import Marks, read_marks, valid_steps
from rnn_jax.sequence.unroll import mapped, split_for, unroll

Layer = RNNCell | CellWrapper | Bidirectional


class SequenceModel(nnx.Module):
    """Recurrent cells stacked in depth, read out by a dense layer or as they are.

    h¹ = unroll(cell₁, x),  h² = unroll(cell₂, h¹), …,    o = h_last W_o + b_o

    With all options, layer l makes of its input hˡ⁻¹ (h⁰ = x)

    hˡ = [hˡ⁻¹ +] [dropout] unroll(cellₗ, [layer_norm] hˡ⁻¹)

    Args:
      cells: one layer, or the layers from input to output, each a cell of this package, plain or
        wrapped, or `Bidirectional`; each takes the features that the one below gives.
      out_features: O; None is no dense readout: outputs are then h_last, O being its features.
      readout: "last", one output from each sequence's last step, or "all", one from every step.
        Of a `Bidirectional` on top, "last" reads forward's last valid step and backward's first
        step, where either has seen the whole sequence.
      residual: add each layer's input to its output, wherever both have the same size; the other
        layers have no such path.
      layer_norm: normalise the input of each layer but the first, over its features.
      dropout: probability in [0, 1) with which each feature of the output of each layer but the
        top one is dropped, independently at each step; only where the call has a key.
      kernel_init: initialiser of W_o, by name or callable.
      rngs: source of initial weights; needed for a dense readout and for layer norm.

    Raises:
      ValueError: no cell, layers that do not fit, an unknown readout, a size below 1, a dropout
        outside [0, 1), or `residual` where no layer's input and output have the same size.
      TypeError: a layer that is no cell of this package, or an `rngs` that is no `nnx.Rngs`.

    References:
      W. Zaremba, I. Sutskever and O. Vinyals, "Recurrent neural network regularization", 2014 (the
      dropout).
      J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", 2016.
    """

    def __init__(
        self,
        cells: Layer | Sequence[Layer],
        out_features: int | None = None,
        *,
        readout: str = "last",
        residual: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
        kernel_init: InitializerLike = "lecun_normal",
        rngs: nnx.Rngs | None = None,
    ):
        layers = check_layers(cells, causal=False)
        dense = out_features is not None
        normalised = check_flag("layer_norm", layer_norm)
        if rngs is not None or dense or normalised:
            check_rngs(rngs)
        self.cells = nnx.List(layers)
        top = layers[-1]
        self.out_features = (
            top.hidden_features
            if out_features is None
            else check_size("out_features", out_features)
        )
        self.readout = check_choice("readout", readout, ("last", "all"))
        self.residual = check_flag("residual", residual)
        self.dropout = check_rate("dropout", dropout)
        if self.residual and not any(map(_keeps_size, layers)):
            sizes = ", ".join(f"{layer.in_features} → {layer.hidden_features}" for layer in layers)
            raise ValueError(
                "residual=True needs a layer whose input and output have the same size, so that "
                f"they can be added; got {sizes}. Build layers with in_features equal to "
                "hidden_features, or leave residual out."
            )
        init = get_initializer("kernel_init", kernel_init)
        kernel = bias = None
        if dense and rngs is not None:
            shape, dtype = (top.hidden_features, self.out_features), top.param_dtype
            kernel = nnx.Param(initialize("kernel_init", init, rngs.params(), shape, dtype))
            bias = nnx.Param(jnp.zeros(self.out_features, dtype))
        # Assigned once, for Flax keeps to what an attribute first is, array or not.
        self.kernel, self.bias = kernel, bias
        self.norms = nnx.List(
            nnx.LayerNorm(
                layer.in_features,
                param_dtype=layer.param_dtype,
                use_fast_variance=False,
                rngs=rngs,
            )
            for layer in (layers[1:] if normalised else [])
        )
        # What tells an ensemble, whose arrays have one axis more, from a single model.
        self._rank = _first_rank(self)

    def __call__(
        self,
        xs: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        checkpoint: int | str | None = None,
        truncate: int | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Outputs for a batch of sequences.

        Args:
          xs: inputs, (..., T, I).
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
          (..., O) for readout "last", (..., T, O) for "all"; without a dense readout O is H.

        Raises:
          ValueError, TypeError: as `unroll`.
        """
        if self.ensemble_size is not None:
            raise ValueError(
                f"this is an ensemble of {self.ensemble_size} models, with a leading axis on every "
                "array; a call runs a single one. Call jax.vmap(lambda model, xs: model(xs), "
                "(0, None))(models, xs), or take one with rnn_jax.member(models, 0)."
            )
        xs = as_sequence(xs, batched=True)
        marks = read_marks(xs.shape[:-1], lengths, mask, resets)
        key = None if key is None else check_key(key)
        options: dict[str, Any] = {"checkpoint": checkpoint, "truncate": truncate}

        def run(model: SequenceModel, *arrays: Any) -> jax.Array:
            return model._outputs(*arrays, **options)

        return call_automatic(run, self, xs, marks, key, like=xs, axes=xs.ndim - 2)

    def _outputs(self, xs: jax.Array, marks: Marks, key: jax.Array | None, **how: Any) -> jax.Array:
        """What a call returns, of what it was given, checked."""
        depth, h = len(self.cells), xs
        valid = valid_steps(marks, xs.shape[-2])
        options = {"lengths": marks.lengths, "mask": marks.mask, "resets": marks.resets, **how}
        keys = [None] * depth if key is None else jax.random.split(key, depth)
        for level, (layer, layer_key) in enumerate(zip(self.cells, keys, strict=True)):
            cell_key, drop_key = (None, None) if key is None else jax.random.split(layer_key)
            into = self._normalised(level, h)
            if isinstance(layer, Bidirectional):
                _, ys = layer(into, key=cell_key, **options)
            else:
                _, ys = unroll(layer, into, key=cell_key, **options)
            if drop_key is not None and self.dropout and level + 1 < depth:
                ys = _drop(ys, drop_key, self.dropout)
            if self.residual and _keeps_size(layer):
                ys, h = promote(ys, h)
                ys = ys + _without_padding(h, valid)
            h = ys
        if self.readout == "last":
            h = self._at_the_end(h, valid)
        if self.kernel is None or self.bias is None:
            return h
        return affine(*promote(h, self.kernel[...], self.bias[...]))

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
        forward = top.forward.hidden_features
        return jnp.concatenate([last[..., :forward], first[..., forward:]], axis=-1)


def _first_rank(model: SequenceModel) -> int:
    """The rank of the first of a model's arrays; 0 if it has none."""
    return next((getattr(leaf, "ndim", 0) for leaf in jax.tree.leaves(model)), 0)


def _keeps_size(layer: Layer) -> bool:
    return layer.in_features == layer.hidden_features


def _drop(ys: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Each feature of each step dropped with probability `rate`, the rest scaled up."""
    *batch, steps, features = ys.shape
    draw = functools.partial(drawn_by_step, probabilities=(rate,), steps=steps, features=features)
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
