"""Which kernels a process may use, and on what card.

Blocks that exchange wait for one another, so all of them must be on the card at once. That cannot
be counted on where processes share it at the same time (MPS): blocks of two programs could each
hold half of the multiprocessors and wait for the other half. It is not counted on either where the
exchange fails its self-test. Kernels with one block for each tile of rows wait for nothing and run
everywhere.

The environment variable RNN_JAX_KERNELS overrides what is decided here: "off" scans everything,
"one-block" leaves out the kernels that exchange, "on" takes them without a self-test and under MPS
too. It is read when a program is compiled.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnn_jax.sequence.kernels.card import Card, card_or_reason, local_devices
from rnn_jax.sequence.kernels.selftest import exchange_works

VARIABLE = "RNN_JAX_KERNELS"
# Where the MPS server waits for clients that name no other place.
_MPS_PIPE = Path("/tmp/nvidia-mps/control")


class Permission(NamedTuple):
    """What the kernels of a program may reckon with.

    Attributes:
      card: None if there may be no kernels at all. Of one multiprocessor if blocks must not wait
        for one another: then one block is all that is sure to be on the card.
      reason: what is not permitted, and why; empty if all is.
    """

    card: Card | None
    reason: str


def permission_of_lowering(works: Callable[[Any], bool] = exchange_works) -> Permission:
    """What the kernels of the program that is being traced or lowered for CUDA may reckon with.

    Args:
      works: the self-test of a device.

    Raises:
      ValueError: RNN_JAX_KERNELS is set to something else.
    """
    override = _override()
    if override == "off":
        return Permission(None, f"{VARIABLE}=off is set")
    card = card_or_reason()
    if isinstance(card, str):
        return Permission(None, card)
    if override == "on":
        return Permission(card, "")
    against = _against_exchange(override, works)
    if against:
        alone = card._replace(multiprocessors=1)
        return Permission(alone, f"blocks must not exchange their states: {against}")
    return Permission(card, "")


def _against_exchange(override: str | None, works: Callable[[Any], bool]) -> str:
    """Why blocks must not wait for one another; empty if they may."""
    if override == "one-block":
        return f"{VARIABLE}=one-block is set"
    if is_shared():
        return (
            "the card is shared with other processes (MPS), whose blocks may hold multiprocessors "
            f"for ever; {VARIABLE}=on overrides this"
        )
    failed = [device for device in devices_to_test() if not works(device)]
    return f"the exchange failed its self-test on {failed[0]}" if failed else ""


def is_shared() -> bool:
    """Whether this process is a client of NVIDIA's Multi-Process Service."""
    return any(name.startswith("CUDA_MPS_") for name in os.environ) or _MPS_PIPE.exists()


def devices_to_test() -> list[Any]:
    """One local device of each kind and size; none for a program that is for other devices."""
    devices = local_devices()
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is not None and abstract.platform == "gpu":
        devices = [device for device in devices if device.device_kind == abstract.device_kind]
    kinds = {(device.device_kind, device.core_count): device for device in reversed(devices)}
    return list(kinds.values())


def _override() -> str | None:
    value = os.environ.get(VARIABLE)
    if value not in (None, "off", "one-block", "on"):
        raise ValueError(
            f'{VARIABLE} must be "off", "one-block" or "on", or not set; got {value!r}. Unset it '
            "to let the package choose."
        )
    return value
