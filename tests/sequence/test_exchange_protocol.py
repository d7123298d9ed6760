"""The exchange between blocks of a recurrent kernel, proved on a model of it.

The blocks that share a tile of rows hand their part of the state to one another in every step,
through memory alone: no fence, no atomic operation, no counter. What makes it right is this
protocol, in which each element stands for one number that the kernels exchange:

  step t:   write one's own elements into buffer t & 1, each with the tag 1 − ((t >> 1) & 1);
            read all elements of that buffer, over and over, until in one pass every tag is this.

The tag is an element's lowest bit, so an element and its tag arrive together. A buffer is written
in every other step, so what it holds has the other tag until the new value comes; and the zeros
that it starts with are what two steps before the first would have left.

The model is explicit: the states of all blocks and of the memory, each single write and read of an
element a move of its own, in whatever order. Memory is as weak as CUDA's is for relaxed accesses
(`volatile`): a read may show any value that was ever written to an element, but none older than
what the same reader was shown of the *same* element before. Nothing is assumed across elements.
States that differ by whole periods of buffers and tags are one, so what is explored is finite, and
what is shown holds for sequences of any length.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
import pytest

from rnn_jax.sequence.kernels.exchange import tag_of


class Protocol(NamedTuple):
    """Which buffer a step uses, and the tag of what is written in it; both periodic."""

    buffers: int
    tags: tuple[int, ...]

    @property
    def period(self):
        return math.lcm(self.buffers, len(self.tags))

    def buffer(self, step):
        return step % self.buffers

    def tag(self, step):
        return self.tags[step % len(self.tags)]


KERNELS = Protocol(buffers=2, tags=(1, 1, 0, 0))


def test_the_protocol_is_that_of_the_kernels():
    for step in range(12):
        assert KERNELS.buffer(step) == step & 1
        assert KERNELS.tag(step) == tag_of(jnp.int32(step))
    assert [KERNELS.tag(step) for step in (-2, -1)] == [0, 0]


# ---- The model.


class Block(NamedTuple):
    """One block, in the middle of a step.

    Attributes:
      step: t.
      written: which of its own elements of step t are in memory.
      seen: for each buffer and each item that the block reads, the step whose value it was last
        shown there; steps before the first stand for the zeros.
      good: which items were read in step t, with the right tag. A pass that meets a wrong tag is
        made again and may be shown again what it was shown, so what was good stays good.
      gave_up: the step in which it reached the spin limit. It waits no more, and all that it
        writes in later steps is NaN.
      took_nan: whether it has taken a NaN for another block's value.
    """

    step: int
    written: tuple[bool, ...]
    seen: tuple[tuple[int, ...], ...]
    good: tuple[bool, ...]
    gave_up: float = math.inf
    took_nan: bool = False


class Mistake(Exception):
    """A block went on with a value of another step that is not NaN."""


class Model(NamedTuple):
    """So many blocks, each of which writes so many elements.

    Attributes:
      adjoint: a block reads one element of each block, the shares of its own units that all have
        computed; forward it reads all elements of all.
      coherent: whether what a reader is shown of an element only goes forward.
      copies: threads that read each element for themselves, of which the first alone looks at its
        tag: what happens if a tile has fewer elements than a block has threads.
    """

    protocol: Protocol
    blocks: int
    elements: int = 1
    adjoint: bool = False
    coherent: bool = True
    copies: int = 1

    def items(self, me):
        """(copy, block that writes it, element) of all that a block reads in a step."""
        elements = [me] if self.adjoint else range(self.elements)
        return list(itertools.product(range(self.copies), range(self.blocks), elements))

    def start(self):
        buffers, items = self.protocol.buffers, len(self.items(0))
        seen = tuple((buffer - buffers,) * items for buffer in range(buffers))
        block = Block(0, (False,) * self.elements, seen, (False,) * items)
        return (block,) * self.blocks

    def in_memory(self, writer, element, buffer):
        """The step whose value of an element was written into a buffer last."""
        last = writer.step if writer.written[element] else writer.step - 1
        return last - (last - buffer) % self.protocol.buffers

    def writes(self, state, me):
        block = state[me]
        for element, is_written in enumerate(block.written):
            if not is_written:
                yield put(state, me, block._replace(written=put(block.written, element, True)))

    def reads(self, state, me):
        """The states after each read that may be next; with the last good one, a step begins."""
        block = state[me]
        buffer, tag = self.protocol.buffer(block.step), self.protocol.tag(block.step)
        for item, (copy, writer, element) in enumerate(self.items(me)):
            newest = self.in_memory(state[writer], element, buffer)
            # One period back is far enough to err.
            oldest = block.seen[buffer][item] if self.coherent else newest - self.protocol.period
            for shown in range(oldest, newest + 1, self.protocol.buffers):
                is_good = copy > 0 or self.protocol.tag(shown) == tag
                after = block._replace(
                    seen=put(block.seen, buffer, put(block.seen[buffer], item, shown)),
                    good=put(block.good, item, is_good),
                )
                yield put(state, me, self.take(state, me, after) if all(after.good) else after)

    def take(self, state, me, block):
        """The block in its next step, or `Mistake` if it takes a wrong value along."""
        shown = block.seen[self.protocol.buffer(block.step)]
        is_nan = [
            step > state[writer].gave_up
            for step, (_, writer, _) in zip(shown, self.items(me), strict=True)
        ]
        if any(step != block.step and not nan for step, nan in zip(shown, is_nan, strict=True)):
            raise Mistake(f"step {block.step} took values of the steps {shown}")
        return self.next_step(block._replace(took_nan=block.took_nan or any(is_nan)))

    def next_step(self, block):
        return block._replace(
            step=block.step + 1,
            written=(False,) * self.elements,
            good=(False,) * len(block.good),
        )

    def moves(self, state):
        """All states that can come next while every block is on the card."""
        for me, block in enumerate(state):
            yield from (self.reads if all(block.written) else self.writes)(state, me)

    def is_stuck(self, state):
        """All is written, and yet no block would go on if it were shown the newest of everything.

        Memory shows what was written in the end, so this is the only way to wait for ever.
        """
        return not any(
            not all(block.written)
            or all(
                self.protocol.tag(self.in_memory(state[writer], element, buffer))
                == self.protocol.tag(block.step)
                for buffer in [self.protocol.buffer(block.step)]
                for _, writer, element in self.items(me)
            )
            for me, block in enumerate(state)
        )

    def in_order(self, state):
        """The state with its blocks sorted: they are alike, and states but for their order are one.

        A block's place in the order is also the place of what it writes among what each reads.
        """
        if self.adjoint:  # Its place is that of what it reads, too: as it is.
            return state
        keys = [(block.step, block.written, block.gave_up, block.took_nan) for block in state]
        in_order = sorted(keys)
        return min(
            tuple(
                state[old]._replace(
                    seen=tuple(tuple(part[i] for i in items) for part in state[old].seen),
                    good=tuple(state[old].good[i] for i in items),
                )
                for old in order
            )
            for order, items in reorderings(self)
            if [keys[old] for old in order] == in_order
        )

    def in_first_period(self, state):
        """The state with steps counted from the period that the slowest block is in."""
        slowest = min(block.step for block in state)
        shift = slowest - slowest % self.protocol.period
        if not shift:
            return state
        return tuple(
            block._replace(
                step=block.step - shift,
                seen=tuple(tuple(step - shift for step in part) for part in block.seen),
            )
            for block in state
        )

    def reachable(self):
        """Every state that can be reached; raises `Mistake` on the way to a wrong value."""
        return closure(
            self.start(),
            lambda state: (self.in_order(self.in_first_period(s)) for s in self.moves(state)),
        )


def closure(first, successors):
    found, waiting = {first}, [first]
    while waiting:
        for state in successors(waiting.pop()):
            if state not in found:
                found.add(state)
                waiting.append(state)
    return found


def put(values, index, value):
    return (*values[:index], value, *values[index + 1 :])


@functools.cache
def reorderings(model):
    """(an order of the blocks, what a block reads in that order)."""
    items = model.items(0)
    place = {item: index for index, item in enumerate(items)}
    return [
        (order, [place[copy, order[writer], element] for copy, writer, element in items])
        for order in itertools.permutations(range(model.blocks))
    ]


# ---- The protocol, and protocols that ask for less.


RIGHT = {
    "two blocks": Model(KERNELS, 2),
    "two blocks of two elements": Model(KERNELS, 2, 2),
    "three blocks": Model(KERNELS, 3),
    "adjoint of two blocks": Model(KERNELS, 2, 2, adjoint=True),
}


@pytest.mark.parametrize("model", RIGHT.values(), ids=list(RIGHT))
def test_no_value_of_another_step_is_taken_and_no_block_waits_for_ever(model):
    found = model.reachable()
    assert not any(map(model.is_stuck, found))
    # It did go round, and one block is never more than a step ahead of another.
    assert {min(b.step for b in state) for state in found} == set(range(KERNELS.period))
    assert {max(b.step for b in s) - min(b.step for b in s) for s in found} == {0, 1}


WRONG = {
    "one buffer": Model(Protocol(1, (1, 1, 0, 0)), 2),
    "two buffers, each with one tag": Model(Protocol(2, (1, 0)), 2),
    "two buffers, each with one tag, not that of the zeros": Model(Protocol(2, (1, 1)), 2),
    "memory that shows an element older than before": Model(KERNELS, 2, coherent=False),
    "more threads than elements": Model(KERNELS, 2, copies=2),
}


@pytest.mark.parametrize("model", WRONG.values(), ids=list(WRONG))
def test_what_takes_values_of_another_step(model):
    with pytest.raises(Mistake):
        model.reachable()


def test_one_buffer_whose_tag_alternates_waits_for_ever():
    model = Model(Protocol(1, (1, 0)), 2)
    assert any(map(model.is_stuck, model.reachable()))


# ---- The spin limit.


def moves_with_limit(model, steps, state, resident=None):
    """What can come next if any block that waits may reach the limit, at any time.

    From then on it goes to the last step without waiting, ahead of the others.
    """
    for me, block in enumerate(state):
        if block.step == steps or (resident is not None and me != resident(state)):
            continue
        if not all(block.written):
            yield from model.writes(state, me)
            continue
        if block.gave_up == math.inf:
            yield from model.reads(state, me)
        gave_up = min(block.step, block.gave_up)
        yield put(state, me, model.next_step(block._replace(gave_up=gave_up)))


def ends_with_limit(model, steps, resident=None):
    """All ways to end."""

    def successors(state):
        following = list(moves_with_limit(model, steps, state, resident))
        # Not for lack of something to read: reads alone may show old values for ever.
        assert any(s != state for s in following) or all(b.step == steps for b in state)
        return map(model.in_order, following) if resident is None else following

    found = closure(model.start(), successors)
    return {state for state in found if all(block.step == steps for block in state)}


@pytest.mark.parametrize(("blocks", "steps"), [(2, 6), (3, 2)])
def test_at_the_spin_limit_all_is_right_or_nan_and_every_block_returns(blocks, steps):
    ends = ends_with_limit(Model(KERNELS, blocks), steps)
    for state in ends:
        first = min(block.gave_up for block in state)
        # NaN only where one has given up, and is handed on from the step after that.
        assert first < steps - 1 or not any(block.took_nan for block in state)
    assert {min(block.gave_up for block in state) for state in ends} == {*range(steps), math.inf}
    # It does happen that NaN is handed on while others still wait as they should.
    assert any(block.took_nan and block.gave_up == math.inf for state in ends for block in state)


def test_blocks_that_are_never_on_the_card_at_once_end_with_nan():
    """A card with one multiprocessor: the second block begins when the first has returned."""
    steps = 6

    def resident(state):
        return next(me for me, block in enumerate(state) if block.step < steps)

    for first, second in ends_with_limit(Model(KERNELS, 2), steps, resident):
        assert first.gave_up == 0
        assert second.took_nan or second.gave_up < steps


def test_a_block_that_has_given_up_must_hand_out_nothing_but_nan():
    """Were it finite, as past the start of another sequence, it would be taken for what it is not.

    It runs ahead, and what it writes four steps later has the same tag in the same buffer.
    """

    class Finite(Model):
        def take(self, state, me, block):
            return super().take([b._replace(gave_up=math.inf) for b in state], me, block)

    with pytest.raises(Mistake):
        ends_with_limit(Finite(KERNELS, 2), 6)
