"""Programs here are compiled as a user's are: in float32, optimised, and not read from a cache."""

import jax
import pytest

AS_A_USER = {
    "jax_enable_x64": False,
    "jax_disable_most_optimizations": False,
    "jax_enable_compilation_cache": False,
}


@pytest.fixture(scope="module", autouse=True)
def _as_a_user_compiles():
    before = {name: jax.config.values[name] for name in AS_A_USER}
    for name, value in AS_A_USER.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
