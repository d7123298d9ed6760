"""The programs here are compiled as users have them, unlike those of the rest of the suite."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _optimizations():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not _has_card())
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def _has_card():
    return any(device.platform == "gpu" for device in jax.devices())
