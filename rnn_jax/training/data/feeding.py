"""Batches of the host on their way to the device: read ahead, stacked, and counted."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from rnn_jax.checks import check_size
from rnn_jax.tasks.base import Batch
from rnn_jax.tasks.loader import Loader
from rnn_jax.tasks.own_data import count_of
from rnn_jax.training.data.reading import Position, Reader, digest_of
from rnn_jax.training.devices.layout import Layout
from rnn_jax.training.plan import Plan

# Bytes of the batches of a chunk, about. On the device lie at once those of the steps under way, of
# the steps that were started ahead, and those that were read ahead.
_CHUNK_BYTES = 64 << 20
# Chunks that are read beyond the one that is asked for: one so that the next call can be started
# before this one is done, and one that is read meanwhile.
_READ_AHEAD = 2


class Chunk(NamedTuple):
    """The batches of some steps.

    Attributes:
      batches: with a leading axis for the steps.
      length: how many steps.
      position: of the reader after them, with the last batch itself as "last".
    """

    batches: Batch
    length: int
    position: Position | None


class Feed:
    """Gives the batches of a loader to a run, one chunk after another.

    How steps are cut into chunks depends on the forms of the batches alone, so that a run that goes
    on makes the same programs of the same batches.

    Args:
      loader: where they come from.

    Raises:
      ValueError, TypeError: there is no first batch, or it cannot be trained on.
    """

    def __init__(self, loader: Loader):
        self._reader = Reader(loader)
        self._start = self._reader.position()
        self.first: Batch = jax.tree.map(np.array, self._reader.next())
        # For whoever asks for the form of a batch before the data are begun.
        self.task = loader.holding(
            jax.tree.map(lambda leaf: leaf[None], self.first), loader.validation
        )
        self._pending = [self.first]
        self._position = self._start
        self._found = True  # Whether the reader is where it has to go on.
        self._ahead: deque[Future[Chunk]] = deque()
        self._reads: Iterator[Future[Chunk]] = iter(())
        self._pool: ThreadPoolExecutor | None = None

    def check_batch_size(self, given: int | None) -> int:
        """Returns B; raises ValueError if another one was asked for."""
        size = count_of(self.first)
        if given is not None and check_size("batch_size", given) != size:
            raise ValueError(
                f"batch_size must be that of the batches that the loader gives, {size}; got "
                f"{given}. Leave it out."
            )
        return size

    def lengths(self, plan: Plan, length: int) -> list[int]:
        """How the steps of one call of the loop are cut: into chunks of a bounded size."""
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(self.first))
        stride = plan.stride(length) if plan.probes else 1
        most = max(stride, _CHUNK_BYTES // each // stride * stride)
        return [min(most, length - start) for start in range(0, length, most)]

    def check_resumable(self) -> None:
        """Raises ValueError if the data cannot be found again by another process."""
        if self._start is None:
            raise ValueError(
                "a run with a directory needs data that another process can read again; got a "
                "plain iterator, which has no get_state and set_state. Pass a function that makes "
                "it, or a list, or leave directory out."
            )

    @property
    def position(self) -> Position | None:
        """After the batches of the calls that are done, as JSON has it."""
        if self._position is None or not isinstance(self._position.get("last"), Batch):
            return self._position
        return {**self._position, "last": digest_of(self._position["last"])}

    def go_to(self, position: Position) -> None:
        """Goes to where an earlier process was, once a batch is asked for: it may take long."""
        self._position = position
        self._found = position["batches"] == 0

    def begin(self, plan: Plan, layout: Layout, done: int, steps: int) -> None:
        """From here on batches can be asked for, of the steps from `done` to `steps`."""
        self._pool = pool = ThreadPoolExecutor(1, thread_name_prefix="rnn_jax loader")
        # Settings of JAX that were made within a context are of one thread.
        wide = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
        device = jax.config.jax_default_device  # type: ignore[attr-defined]

        def read(length: int) -> Chunk:
            with jax.enable_x64(wide), jax.default_device(device):
                return self._read(length, layout)

        lengths = self._all_lengths(plan, done, steps)
        self._reads = (pool.submit(read, length) for length in lengths)

    def is_ready(self) -> bool:
        """Whether `next` would not have to wait."""
        return bool(self._ahead) and self._ahead[0].done()

    def next(self) -> Chunk:
        """The next chunk, on the device; from now on those after it are read."""
        missing = 1 + _READ_AHEAD - len(self._ahead)
        self._ahead.extend(itertools.islice(self._reads, missing))
        return self._ahead.popleft().result()

    def done(self, position: Position | None) -> None:
        """A call of the loop is done, whose last chunk was at `position`."""
        self._position = position

    def close(self) -> None:
        """Reads no further."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _all_lengths(self, plan: Plan, done: int, steps: int) -> Iterator[int]:
        while done < steps:
            length = plan.next_length(done, steps)
            yield from self.lengths(plan, length)
            done += length

    def _read(self, length: int, layout: Layout) -> Chunk:
        if not self._found:
            assert self._position is not None
            self._reader.go_to(self._position)
            self._pending, self._found = [], True
        batches = jax.tree.map(lambda leaf: np.empty((length, *leaf.shape), leaf.dtype), self.first)
        rows = jax.tree.leaves(batches)
        for number in range(length):
            batch = self._pending.pop() if self._pending else self._reader.next()
            # At once: a source may give the same arrays again and again, and write into them.
            for row, leaf in zip(rows, jax.tree.leaves(batch), strict=True):
                row[number] = leaf
        position = self._reader.position()
        if position is not None and "last" in position:
            # Its digest is made when a checkpoint asks for it.
            position["last"] = jax.tree.map(lambda leaf: leaf[-1], batches)
        placed: Any = layout.place_everywhere(jax.tree.map(jax.numpy.asarray, batches))
        return Chunk(placed, length, position)
