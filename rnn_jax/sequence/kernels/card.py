"""What a kernel must know of the graphics card that it is compiled for."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax


class Card(NamedTuple):
    """The sizes of a card that the choice of tiles depends on.

    Attributes:
      multiprocessors: how many; blocks that wait for one another are at most as many. A slice of a
        card (MIG) has those of the slice.
      shared_memory: bytes that one block may have.
      compute_capability: (major, minor).
    """

    multiprocessors: int
    shared_memory: int
    compute_capability: tuple[int, int]


H100 = Card(132, 232448, (9, 0))

OLDEST = (8, 0)  # The first whose tensor cores take tf32 and bfloat16.

# Shared memory that one block may have, in KiB, by compute capability: "Technical Specifications
# per Compute Capability" in NVIDIA's CUDA C++ programming guide. What is not listed has that of its
# major version.
_SHARED_KIB = {(8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99}
_SHARED_KIB_BY_MAJOR = {8: 99, 9: 227, 10: 227, 11: 227, 12: 99}

# Compute capabilities by the name of a device, which is all that an abstract one has. As in
# NVIDIA's list of GPUs; the first pattern that is found counts.
_CAPABILITIES = (
    (r"\b(GB|B)300\b", (10, 3)),
    (r"\b(GB|B)[12]00\b", (10, 0)),
    (r"\bGB10\b", (12, 1)),
    (r"\b(GH200|H[128]00|H20)\b", (9, 0)),
    (r"\b(A[18]00|A30)\b", (8, 0)),
    (r"\b(L4|L40S?|L20|RTX 40\d\d|RTX [2456]0?000 Ada)\b", (8, 9)),
    (r"\b(A2|A10G?|A16|A40|RTX 30\d\d|RTX A\d000)\b", (8, 6)),
    (r"\b(RTX 50\d\d|RTX PRO \d000)\b", (12, 0)),
    (r"\b(T4|RTX 20\d\d)\b", (7, 5)),
    (r"\bV100\b", (7, 0)),
    (r"\bP100\b", (6, 0)),
)


def card_of_lowering() -> Card | None:
    """The card that a program is being compiled for; None if it is not known, or too old."""
    card = card_or_reason()
    return card if isinstance(card, Card) else None


def card_or_reason() -> Card | str:
    """The card that a program is being compiled for, or why there is none to reckon with.

    It is that of the abstract mesh, if one is set that knows its device: what is compiled ahead of
    time is for a device that need not be here. Else it is the local one, and of several the
    smallest of everything, since a program does not say which of them it is for.

    Call it while a program is traced or lowered for CUDA.
    """
    locals_ = local_devices()
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is None or abstract.platform != "gpu":
        return _smallest(locals_)
    same = [device for device in locals_ if device.device_kind == abstract.device_kind]
    return _smallest(same) if same else _of_abstract(abstract)


def local_devices() -> Sequence[Any]:
    """The CUDA devices of this process; none where there are none."""
    try:
        return jax.local_devices(backend="cuda")
    except RuntimeError:  # How JAX says that it has no such backend.
        return ()


def _smallest(devices: Sequence[Any]) -> Card | str:
    if not devices:
        return "there is no CUDA device here, and no abstract mesh names one to compile for"
    cards = [_of_device(device) for device in devices]
    for card in cards:
        if isinstance(card, str):
            return card
    known = [card for card in cards if isinstance(card, Card)]
    return Card(*map(min, zip(*known, strict=True)))


def _of_device(device: Any) -> Card | str:
    """A device as JAX lists it, one that it compiles for ahead of time included."""
    capability = _parsed(getattr(device, "compute_capability", ""))
    shared = getattr(device, "shared_memory_per_block_optin", None)
    return _card(device.device_kind, getattr(device, "core_count", None), capability, shared)


def _of_abstract(device: Any) -> Card | str:
    """An abstract device, which has a name and a number of multiprocessors."""
    named = (known for pattern, known in _CAPABILITIES if re.search(pattern, device.device_kind))
    return _card(device.device_kind, device.num_cores, next(named, None), None)


def _card(
    kind: str,
    multiprocessors: int | None,
    capability: tuple[int, int] | None,
    shared: int | None,
) -> Card | str:
    if capability is None:
        return f"the compute capability of {kind!r} is not known"
    if capability < OLDEST:
        return (
            f"{kind!r} has compute capability {_text(capability)}, and the kernels need "
            f"{_text(OLDEST)} or later"
        )
    if not multiprocessors:
        return f"the number of multiprocessors of {kind!r} is not known"
    if not shared:
        kib = _SHARED_KIB.get(capability) or _SHARED_KIB_BY_MAJOR.get(capability[0])
        if kib is None:
            return f"the shared memory of {kind!r}, {_text(capability)}, is not known"
        shared = kib * 1024
    return Card(multiprocessors, shared, capability)


def _parsed(capability: Any) -> tuple[int, int] | None:
    """From "9.0" (9, 0); None for what is no compute capability of CUDA."""
    found = re.match(r"(\d+)\.(\d)", str(capability))
    return (int(found[1]), int(found[2])) if found else None


def _text(capability: tuple[int, int]) -> str:
    return "{}.{}".format(*capability)
