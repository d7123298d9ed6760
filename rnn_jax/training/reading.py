"""Batches of a `Loader` in order, and the place in them that a checkpoint keeps."""

import base64
import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rnn_jax.checks import kind_of
from rnn_jax.tasks.base import Batch, CrossEntropy
from rnn_jax.tasks.examples import as_examples
from rnn_jax.tasks.loader import Loader
from rnn_jax.tasks.own_data import check_alike

# As JSON has it.
Position = dict[str, Any]


class Reader:
    """Reads the batches of a loader, one for each training step.

    Attributes:
      drawn: how many there were so far.
    """

    def __init__(self, loader: Loader):
        self.drawn = 0
        self._loader, self._source = loader, loader.source
        # A function of the epoch, or one that begins anew, or a plain iterator.
        self._begin, self._by_epoch = _beginning(loader.source)
        self._epoch, self._in_epoch = 0, 0
        self._iterator = self._begun()
        self._forms: str | None = None

    def next(self) -> Batch:
        """The next batch, checked, on the host; the source may write into it later.

        Raises:
          ValueError, TypeError: there is none, it is no batch, or it is not as the ones before.
        """
        batch = self._checked(self._next())
        self.drawn += 1
        return batch

    def position(self) -> Position | None:
        """Where it is, for `go_to` in another process; None if that cannot find it again.

        To a place that is found by reading again `digest_of` the last batch has to be added, as
        "last".
        """
        if _keeps_state(self._iterator):
            state = _as_json(self._iterator.get_state())
            return {"batches": self.drawn, "epoch": self._epoch, "state": state}
        if self._source is self._iterator:
            return None
        place = {"epoch": self._epoch, "in_epoch": self._in_epoch} if self._by_epoch else {}
        return {"batches": self.drawn, "last": None, **place}

    def go_to(self, position: Position) -> None:
        """Goes to where another reader of the same data was.

        Raises:
          ValueError: the data are not those that it read.
        """
        self.drawn = position["batches"]
        if "state" in position:
            self._epoch, self._iterator = position["epoch"], self._begun()
            self._iterator.set_state(_from_json(position["state"]))
            return
        self._epoch, self._in_epoch = position.get("epoch", 0), 0
        self._iterator = self._begun()
        count = position["in_epoch"] if self._by_epoch else position["batches"]
        last = None
        for _ in range(count):
            last = self._next()
        if last is None:
            return
        if digest_of(self._checked(last)) != position["last"]:
            raise ValueError(
                "source must give the same batches when it is read again, so that a run goes on "
                f"where it was; got another batch {self.drawn - 1} than before. Shuffle by a seed, "
                "pass a function of the epoch that makes its own random generator from it, "
                "or bring the data back."
            )

    def _begun(self) -> Any:
        begun = self._begin(self._epoch)
        try:
            return iter(begun)
        except TypeError as error:
            raise TypeError(
                "a function as source must return an iterable of batches; got "
                f"{kind_of(begun)}. Let it yield them."
            ) from error

    def _next(self) -> Any:
        """The next batch as it comes, from the next epoch if this one is over."""
        for anew in (False, True):
            if anew:
                self._epoch, self._in_epoch = self._epoch + 1, 0
                self._iterator = self._begun()
            found = next(self._iterator, _END)
            if found is not _END:
                self._in_epoch += 1
                return found
            if self._iterator is self._source:
                raise ValueError(
                    f"source must have a batch for each training step; it ended after {self.drawn}."
                    " Pass fewer steps, or what begins anew: a list, or a function that makes the "
                    "iterator."
                )
        raise ValueError(
            f"source must yield batches; epoch {self._epoch} of it had none, after {self.drawn} "
            "batches in all. An iterator that is used up begins no more: pass the function that "
            "makes it."
        )

    def _checked(self, found: Any) -> Batch:
        of = f"batch {self.drawn}"
        batch = as_examples(found, of, "weights")
        if self._forms is None:
            assert self._loader.validation is not None
            check_alike(batch, self._loader.validation)
            self._forms = _forms(batch)
        elif _forms(batch) != self._forms:
            raise ValueError(
                "all batches must have the shapes and types of the first one, as one compiled "
                f"program takes them all; got {_forms(batch)} as {of} beside {self._forms}. Drop "
                "the last batch of an epoch if it is smaller (drop_last, drop_remainder), and pad "
                "sequences to one length."
            )
        criterion = self._loader.criterion
        if type(criterion) is CrossEntropy:
            largest = int(batch.targets[batch.weights > 0].max())
            if largest >= self._loader.out_features:
                raise ValueError(
                    f"targets must name classes below {self._loader.out_features}, those of the "
                    f"loss or the validation examples; got {largest} in {of}. Pass "
                    f"loss=CrossEntropy(classes={largest + 1}), or more."
                )
        return batch


_END = object()


def _beginning(source: Any) -> tuple[Callable[[int], Any], bool]:
    """(what begins an epoch, whether it depends on the epoch)."""
    if hasattr(source, "__iter__"):
        return lambda _: source, False
    try:
        wanted = [
            parameter
            for parameter in inspect.signature(source).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):  # Built-in callables may have no signature to look at.
        wanted = []
    if len(wanted) > 1:
        raise TypeError(
            "a function as source must take the epoch or nothing; got one of "
            f"{', '.join(parameter.name for parameter in wanted)}. Bind the rest by "
            "functools.partial."
        )
    return (source, True) if wanted else (lambda _: source(), False)


def _keeps_state(iterator: Any) -> bool:
    return all(callable(getattr(iterator, name, None)) for name in ("get_state", "set_state"))


def _as_json(state: Any) -> Any:
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    try:
        again = json.loads(json.dumps(state))
    except (TypeError, ValueError):
        again = None
    if again != state:
        raise TypeError(
            "get_state of an iterator must return bytes or what JSON has, so that a checkpoint can "
            f"keep it; got {kind_of(state)}. Wrap it, or pass a function of the epoch."
        )
    return {"json": again}  # A copy, which the iterator does not write into.


def _from_json(kept: Any) -> Any:
    return base64.b64decode(kept["bytes"]) if "bytes" in kept else kept["json"]


def _forms(batch: Batch) -> str:
    named = {name: part for name, part in batch._asdict().items() if part is not None}
    return ", ".join(
        f"{name} {leaf.dtype}{list(leaf.shape)}"
        for name, part in named.items()
        for leaf in jax.tree.leaves(part)
    )


def digest_of(batch: Batch) -> str:
    """SHA-256 of the form and the bytes of a batch."""
    found = hashlib.sha256(_forms(batch).encode())
    for leaf in jax.tree.leaves(batch):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:32]
