"""Devices that are not there, and programs compiled for them.

A TPU v5e comes from libtpu, an NVIDIA H100 from JAX's CUDA plugin and the description in
h100.txtpb. `make test-aot` sets up what both need.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PLATFORMS = ("tpu", "cuda")

# By module, the package that has it. Without the last one the CUDA plugin finds no assembler.
NEEDED = {
    "libtpu": "libtpu",
    "jax_cuda13_plugin": "jax-cuda13-plugin",
    "jax_plugins.xla_cuda13": "jax-cuda13-pjrt",
    "nvidia.cu13": "nvidia-cuda-nvcc",
}

# What a TPU's runtime would otherwise ask of the machine that it is on.
TPU_SURROUNDINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# In float32, optimised, and compiled each time.
AS_A_USER = {
    "jax_enable_x64": False,
    "jax_disable_most_optimizations": False,
    "jax_enable_compilation_cache": False,
}


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Of the package that it would be in.
        return False


def reason_to_skip() -> str | None:
    """Why nothing can be compiled for other platforms here; None if it can."""
    missing = [package for module, package in NEEDED.items() if not _is_here(module)]
    if missing:
        return f"compiling ahead of time needs {', '.join(missing)}: run `make test-aot`"
    if jax.config.jax_platforms != "cpu":
        return "compiling ahead of time needs JAX_PLATFORMS=cpu: run `make test-aot`"
    return None


def require() -> None:
    """Skips the test file that calls this where nothing can be compiled, and says why."""
    __tracebackhide__ = True  # So that it is that file which the summary names.
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason, allow_module_level=True)


# Not of a conftest.py, because the suite has one, and pytest knows each by its name alone.
@pytest.fixture(scope="module", autouse=True)
def as_a_user() -> Iterator[None]:
    """For all tests of a file that has it: programs are compiled as a user's are."""
    before = {name: jax.config.values[name] for name in AS_A_USER}
    _configure(AS_A_USER)
    yield
    _configure(before)


def _configure(values: dict[str, bool]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    # Whether there is a cache is asked once, and then remembered. A program for a device that is
    # not here can be written to it and not be read again.
    compilation_cache.reset_cache()


@functools.cache
def devices(platform: str) -> list[Any]:
    """The four chips of a TPU v5e 2×2 ("tpu"), or one NVIDIA H100 ("cuda")."""
    if platform == "tpu":
        for name, value in TPU_SURROUNDINGS.items():
            os.environ.setdefault(name, value)
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    described = (Path(__file__).parent / "h100.txtpb").read_text(encoding="utf-8")
    return topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=described, topology="1x1x1"
    ).devices


def mesh_of(platform: str, **axes: int) -> Mesh:
    """A mesh of the platform's devices; without axes, of one of them."""
    shape = tuple(axes.values()) or (1,)
    chosen = np.array(devices(platform)[: int(np.prod(shape))]).reshape(shape)
    return Mesh(chosen, tuple(axes) or ("all",))


def shapes_on(mesh: Mesh, tree: Any, *axes: str | None) -> Any:
    """The arrays of a tree as shapes on the devices of a mesh, their axes split as named."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None:
            return leaf
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding)

    return jax.tree.map(shape_of, tree)


def lowered_for(
    platform: str, function: Callable[..., Any], *arguments: Any, mesh: Mesh | None = None
) -> jax.stages.Lowered:
    """`function`, traced and lowered for a platform.

    Args:
      platform: one of `PLATFORMS`.
      function: of pytrees of arrays.
      arguments: arrays or shapes, which lie whole on each device; those of `shapes_on` as they say.
      mesh: of the platform's devices; None is one device.
    """
    mesh = mesh_of(platform) if mesh is None else mesh
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = jax.jit(function).trace(*shapes_on(mesh, arguments))
        return traced.lower(lowering_platforms=(platform,))


def compiled_for(
    platform: str, function: Callable[..., Any], *arguments: Any, mesh: Mesh | None = None
) -> str:
    """The text of the executable that `lowered_for` gives, compiled."""
    lowered = lowered_for(platform, function, *arguments, mesh=mesh)
    text = lowered.compile().as_text()
    assert text is not None
    return text
