"""Compiled programs, kept for as long as they are used, by what they compute."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from rnn_jax.checks import is_key

# Programs that are kept, the latest used ones.
_KEPT = 64

_programs: OrderedDict[str, Callable[..., Any]] = OrderedDict()
_lock = threading.Lock()


def cached_program(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """`function`, traced now and compiled at its first call, for arguments of these forms.

    What is kept from one call to the next is found by the traced program and the numbers that it
    closes over, not by the objects that it was traced from. So an equal optimiser, task or schedule
    finds it again, and one whose data have changed in place does not.
    """
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        # Who debugs wants the function itself; what it refuses is still said now.
        jax.eval_shape(function, *arguments)
        return function
    traced = jax.jit(function).trace(*arguments)
    structure = jax.tree.structure(traced.out_info)
    name = _identity(traced.jaxpr)
    with _lock:
        program = _programs.pop(name, None) or _frozen(traced.jaxpr)
        _programs[name] = program
        while len(_programs) > _KEPT:
            _programs.popitem(last=False)

    def run(*arguments: Any) -> Any:
        return jax.tree.unflatten(structure, program(*jax.tree.leaves(arguments)))

    return run


def _frozen(traced: ClosedJaxpr) -> Callable[..., Any]:
    """A program whose numbers no longer follow the arrays that they were read from."""
    constants = [np.array(c) if isinstance(c, np.ndarray) else c for c in traced.consts]
    return jax.jit(jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants)))


def _identity(traced: ClosedJaxpr) -> str:
    """A digest of all that a traced program does."""
    found = hashlib.sha256(str(traced).encode())
    for constant in traced.consts:
        found.update(_bytes_of(constant))
    for part in _unprinted(traced.jaxpr):
        found.update(part)
    return found.hexdigest()


def _unprinted(program: Jaxpr) -> Iterator[bytes]:
    """What the text of a program does not show: arrays within it, and functions of the host."""
    for equation in program.eqns:
        for variable in equation.invars:
            if isinstance(variable, Literal) and np.shape(variable.val):
                yield _bytes_of(variable.val)
        if any("callback" in name for name in equation.params):
            # Each is its own; the program that is kept keeps it, so that no other has its number.
            yield repr([id(value) for value in equation.params.values()]).encode()
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, ClosedJaxpr):
                    yield from map(_bytes_of, inner.consts)
                    yield from _unprinted(inner.jaxpr)
                elif isinstance(inner, Jaxpr):
                    yield from _unprinted(inner)


def _bytes_of(constant: Any) -> bytes:
    array = np.asarray(jax.random.key_data(constant) if is_key(constant) else constant)
    return f"{jnp.result_type(constant)}{array.shape}".encode() + array.tobytes()
