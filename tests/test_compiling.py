"""How the suite itself compiles: flags that XLA knows, and few contexts."""

import os
import threading

import jax
import pytest
from jax._src.interpreters import mlir

import compiling


def test_a_flag_that_xla_does_not_know_is_not_set(monkeypatch):
    monkeypatch.delenv(compiling.ASKED)
    monkeypatch.setenv("XLA_FLAGS", "")
    known = [flag for flag in compiling.WANTED if compiling._is_known(flag)]
    unknown = "--" + "xla_no_such_flag=1"
    monkeypatch.setattr(compiling, "WANTED", (*compiling.WANTED, unknown))
    compiling.set_known_flags()
    assert os.environ["XLA_FLAGS"].split() == known


def test_a_thread_lowers_many_programs_in_one_context():
    contexts = compiling._Contexts(object)
    made = [contexts() for _ in range(2 * compiling.PROGRAMS)]
    first, second = made[0], made[-1]
    assert made == [first] * compiling.PROGRAMS + [second] * compiling.PROGRAMS
    assert first is not second
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(contexts()))
    thread.start()
    thread.join()
    assert elsewhere[0] not in made


def test_jax_lowers_in_them(monkeypatch):
    if not isinstance(getattr(mlir, "make_ir_context", None), compiling._Contexts):
        pytest.skip("this JAX makes its contexts elsewhere: the suite takes longer")
    contexts = compiling._Contexts(mlir.make_ir_context._make)
    monkeypatch.setattr(mlir, "make_ir_context", contexts)
    lowered = [jax.jit(lambda x, by=by: x * by).lower(1.0) for by in (2.0, 3.0)]
    for program, factor in zip(lowered, ["2.000000e+00", "3.000000e+00"], strict=True):
        assert factor in program.as_text()
        assert program.compiler_ir().context == contexts._current
