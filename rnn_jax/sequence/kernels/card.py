"""What a kernel must know of the graphics card that it is compiled for."""

from typing import NamedTuple


class Card(NamedTuple):
    """The sizes of a card that the choice of tiles depends on.

    Attributes:
      multiprocessors: how many; blocks that wait for one another are at most as many.
      shared_memory: bytes that one block may have.
      compute_capability: (major, minor).
    """

    multiprocessors: int
    shared_memory: int
    compute_capability: tuple[int, int]


H100 = Card(132, 232448, (9, 0))
