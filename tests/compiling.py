"""How the suite compiles quickly: hundreds of small programs, each run a few times."""

import gc
import os
import subprocess
import sys

# The older way to emit a fusion takes half the time that the newer one does; splitting each small
# program's compilation among threads costs more than it gives. Both are flags of some versions of
# XLA, and one that is not known ends the process, so each is asked for in a process of its own.
WANTED = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
# Says to worker processes, which inherit the flags, that all has been asked.
ASKED = "RNN_JAX_TESTS_ASKED_FOR_FLAGS"


def set_known_flags() -> None:
    """Adds the wanted flags that this XLA knows to XLA_FLAGS; before jax is first used."""
    if ASKED in os.environ:
        return
    os.environ[ASKED] = "1"
    given = os.environ.get("XLA_FLAGS", "")
    known = WANTED if _is_known(*WANTED) else tuple(flag for flag in WANTED if _is_known(flag))
    os.environ["XLA_FLAGS"] = " ".join([given, *known]).strip()


def collect_rarely() -> None:
    """Tracing makes millions of small objects that live on in JAX's caches.

    Looking for garbage among them again and again is a tenth of the time.
    """
    gc.freeze()
    gc.set_threshold(200_000, 100, 1000)


def _is_known(*flags: str) -> bool:
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    program = "import jax; jax.devices()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    return done.returncode == 0
