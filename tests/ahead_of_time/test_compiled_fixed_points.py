"""The programs between which searches for fixed points decide on the host."""

import functools

import jax.numpy as jnp
import numpy as np
import platforms
import pytest
from calls_over_time import gru

import rnn_jax as rj
from rnn_jax.gradients.fixed_points import continuation, search
from rnn_jax.gradients.fixed_points.state_map import double_precision

platforms.require()
as_a_user = platforms.as_a_user


def search_for(cell):
    """More starts than one program takes: smaller batches of those that are still on their way."""
    starts = np.random.default_rng(0).normal(size=(search._FEW + 1, cell.hidden_features))
    return rj.fixed_points(cell, jnp.zeros(2), starts=starts, max_steps=30, certify=False)


def programs_of(monkeypatch, module, names, call):
    """{name: (program, what it was called on)} of those that a call runs."""
    seen = {}

    def seeing(name, program):
        def run(*arguments, **options):
            seen.setdefault(name, (functools.partial(program, **options), arguments))
            return program(*arguments, **options)

        return run

    with monkeypatch.context() as patched:
        for name in names:
            patched.setattr(module, name, seeing(name, getattr(module, name)))
        call()
    assert set(seen) == set(names)
    return seen


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
def test_what_a_search_and_a_continuation_run_compiles(platform, monkeypatch):
    """In float64, which a TPU's compiler makes of float32."""
    cell = gru(hidden=3)
    found = []
    programs = programs_of(
        monkeypatch,
        search,
        ("_begin", "_go_on", "_finish_all"),
        lambda: found.append(search_for(cell)),
    )
    path = np.linspace(np.zeros(2), np.full(2, 0.1), 3)
    programs |= programs_of(
        monkeypatch,
        continuation,
        ("_evaluate",),
        lambda: rj.continue_fixed_points(cell, path, found[0]),
    )
    for program, arguments in programs.values():
        with double_precision():
            platforms.compiled_for(platform, program, *arguments)
