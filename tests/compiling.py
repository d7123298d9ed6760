"""How the suite compiles quickly: hundreds of small programs, each run a few times."""

import gc
import os
import subprocess
import sys
import threading

# The older way to emit a fusion takes half the time that the newer one does; splitting each small
# program's compilation among threads costs more than it gives. Both are flags of some versions of
# XLA, and one that is not known ends the process, so each is asked for in a process of its own.
WANTED = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
# Says to worker processes, which inherit the flags, that all has been asked.
ASKED = "RNN_JAX_TESTS_ASKED_FOR_FLAGS"
# So many are lowered in one MLIR context.
PROGRAMS = 200


def for_small_programs() -> None:
    """All of it, in this process and in those it starts; before jax first computes."""
    set_known_flags()
    _collect_rarely()
    _lower_in_few_contexts()


def set_known_flags() -> None:
    """Adds the wanted flags that this XLA knows to XLA_FLAGS; before jax is first used."""
    if ASKED in os.environ:
        return
    os.environ[ASKED] = "1"
    given = os.environ.get("XLA_FLAGS", "")
    known = WANTED if _is_known(*WANTED) else tuple(flag for flag in WANTED if _is_known(flag))
    os.environ["XLA_FLAGS"] = " ".join([given, *known]).strip()


def _collect_rarely() -> None:
    """Tracing makes millions of small objects that live on in JAX's caches.

    Looking for garbage among them again and again is a tenth of the time.
    """
    gc.freeze()
    gc.set_threshold(200_000, 100, 1000)


def _lower_in_few_contexts() -> None:
    """JAX lowers each program in an MLIR context of its own, which it then keeps.

    Making one takes as long as all else that happens to a small program before it is compiled, and
    400 kB.
    """
    from jax._src.interpreters import mlir

    if hasattr(mlir, "make_ir_context"):  # Without, programs are lowered as ever.
        mlir.make_ir_context = _Contexts(mlir.make_ir_context)


class _Contexts(threading.local):
    """One after another for each thread, as each keeps the constants of its programs."""

    def __init__(self, make):
        self._make, self._used = make, 0

    def __call__(self):
        if self._used % PROGRAMS == 0:
            self._current = self._make()
        self._used += 1
        return self._current


def _is_known(*flags: str) -> bool:
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    program = "import jax; jax.devices()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    return done.returncode == 0
