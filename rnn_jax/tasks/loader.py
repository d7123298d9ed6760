"""Data that do not fit on the device: batches from an iterator."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from rnn_jax.checks import kind_of
from rnn_jax.tasks.base import Batch
from rnn_jax.tasks.examples import as_examples
from rnn_jax.tasks.own_data import LossLike, OwnData


class Loader(OwnData):
    """The user's own batches, one for each training step, from an iterator of the host.

    They are read ahead by a thread while the device trains, and stacked so that one compiled
    program makes many steps. All members of an ensemble, and all processes, train on the same ones.

    A run with a directory keeps its place in the data in each checkpoint, and goes on from there:

    - an iterator with get_state and set_state, as Grain's are, is set to where it was;
    - of a function of the epoch, only the batches of the epoch under way are read again;
    - anything else that can be begun anew (a list, a `tf.data.Dataset`, a function without
      arguments) is read again from its first batch, which takes as long as reading it took.

    In the latter two the last batch before the place must be the one that it was, so shuffle by a
    seed. A plain iterator, which cannot be begun anew, trains only without a directory.

    Args:
      source: batches that begin anew when they end: an iterable, a function without arguments that
        returns one, or a function of the epoch, a whole number from 0 on; or an iterator, which
        must have as many as there are steps. A batch is (inputs, targets),
        (inputs, targets, weights), a `Batch`, or a dict with the names of its fields, such as
        lengths; all of one shape, of NumPy, JAX or any kind that NumPy reads.
      validation: the examples of each evaluation, all of them: in a form of a batch, with as many
        rows as you like, or a list or other iterable of batches, which is read once and kept.
      loss: as for `Arrays`.

    Raises:
      TypeError, ValueError: no source, or validation that is not as it should be. What is wrong
        with a batch is said by `fit` when it comes, once the steps before it are saved.

    Example:
      >>> def batches(epoch):  # in an order that the epoch decides, so that a run can go on
      ...     rng = np.random.default_rng(epoch)
      ...     for _ in range(4):
      ...         inputs = rng.normal(size=(8, 20, 2)).astype(np.float32)
      ...         yield inputs, inputs.sum((1, 2))[:, None]
      ...
      >>> data = rj.tasks.Loader(batches, validation=next(batches(1000)))
      >>> data.in_features, data.out_features, data.readout
      (2, 1, 'last')
    """

    def __init__(self, source: Any, *, validation: Any, loss: LossLike = None):
        if isinstance(source, (type, str, bytes, Mapping, Batch)) or not (
            callable(source) or isinstance(source, Iterable)
        ):
            raise TypeError(
                "source must be an iterable of batches, or a function that returns one; got "
                f"{kind_of(source)}. Pass for example a list of (inputs, targets), or Arrays for "
                "examples that fit on the device."
            )
        held_out = _read_validation(validation)
        super().__init__(held_out, held_out, loss)
        self.source = source
        self.training: Batch | None = None

    def order(self, key: jax.Array, first: jax.Array, length: int, batch_size: int) -> Any:
        """The batches that it holds, one for each step."""
        return self.training

    def take(self, entry: Any) -> Batch:
        """The batch itself."""
        batch: Batch = entry
        return batch

    def _examples(self) -> Batch:
        assert self.validation is not None
        return self.validation


def _read_validation(value: Any) -> Batch:
    if isinstance(value, (Batch, tuple, Mapping)):
        return as_examples(value, "validation", "weights")
    if value is None or not isinstance(value, Iterable):
        raise TypeError(
            "validation must be examples to evaluate on, as batches alone never say how well "
            f"others are done; got {kind_of(value)}. Pass (inputs, targets), or an iterable of "
            "batches that training does not see."
        )
    # Copies: a source may give the same arrays again and again, and write into them.
    parts = [
        jax.tree.map(np.array, as_examples(part, f"batch {n} of validation", "weights"))
        for n, part in enumerate(value)
    ]
    if not parts:
        raise ValueError("validation must have a batch at least; got none. Pass some examples.")
    structures = {jax.tree.structure(part) for part in parts}
    forms = {tuple(leaf.shape[1:] for leaf in jax.tree.leaves(part)) for part in parts}
    if len(structures) > 1 or len(forms) > 1:
        raise ValueError(
            "the batches of validation must be of one form but for their numbers of rows; got "
            f"{len(structures)} structures and {len(forms)} shapes. Pad them to one length."
        )
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
