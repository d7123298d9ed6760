"""Where members and batches lie: one device, several, or several processes."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from rnn_jax.checks import is_key, kind_of

# What an axis of a mesh may split, by name.
_MEMBERS, _BATCH = "ensemble", ("batch", "data")


@dataclass(frozen=True)
class Layout:
    """How many members there are, and over which devices they and their batches are spread.

    Attributes:
      members: E of an ensemble; None is one model without a leading axis.
      mesh: devices, with an axis "ensemble", an axis "batch" (or "data"), or both; None is one.
      device: the one, where there is no mesh; None is JAX's default one.
    """

    members: int | None = None
    mesh: Mesh | None = None
    device: jax.Device | None = None

    @property
    def platform(self) -> str:
        """Of the devices, such as "cpu", which need not be of the default backend."""
        if self.mesh is not None:
            return str(self.mesh.devices.flat[0].platform)
        return str((self.device or _default_device()).platform)

    def spread(self, batch: Any) -> Any:
        """Splits the leading axis of a batch over the devices, where there are several."""
        axis = _batch_axis(self.mesh)
        if self.mesh is None or axis is None:
            return batch
        sharding = NamedSharding(self.mesh, PartitionSpec(axis))
        return lax.with_sharding_constraint(batch, sharding)

    def over_members(self, function: Callable[..., Any], shared: Any = None) -> Callable[..., Any]:
        """function(shared, …) of what is one member's, as one of what is all members'.

        On a single CPU, one after another in one program: side by side there is nothing to win
        there, and batched products of small matrices are slower than single ones. Where devices
        share the members and nothing else, each runs its own as if it were alone, so that what no
        compiler can split, such as a kernel, need not be split.

        Args:
          function: of `shared` and then of pytrees of arrays of one member.
          shared: what is traced and the same for all members.
        """
        alone = functools.partial(function, shared)
        if self.members is None:
            return alone
        if self.mesh is None and self.platform == "cpu":
            return lambda *arguments: lax.map(lambda one: alone(*one), arguments)
        if self.mesh is None or self.mesh.axis_names != (_MEMBERS,):
            return jax.vmap(alone, spmd_axis_name=_members_axis(self.mesh))
        own = PartitionSpec(_MEMBERS)
        apart = jax.shard_map(
            lambda shared, arguments: jax.vmap(functools.partial(function, shared))(*arguments),
            mesh=self.mesh,
            in_specs=(PartitionSpec(), own),
            out_specs=own,
            check_vma=False,  # The user's loops start from constants.
        )
        return lambda *arguments: apart(shared, arguments)

    def sharding(self, *, everywhere: bool = False) -> Sharding:
        """How arrays with an axis of the members lie, or those that are `everywhere` the same."""
        if self.mesh is None:
            return SingleDeviceSharding(self.device or _default_device())
        return NamedSharding(self.mesh, PartitionSpec() if everywhere else self._spec())

    def place(self, tree: Any) -> Any:
        """Puts numbers, equal in all processes, where they belong: members apart, if so wished."""
        if self.mesh is None:
            return jax.tree.map(_on_device, tree)
        return jax.tree.map(functools.partial(_put, self.sharding()), tree)

    def place_everywhere(self, tree: Any) -> Any:
        """Puts numbers, equal in all processes, on every device."""
        if self.mesh is None:
            return tree
        return jax.tree.map(functools.partial(_put, self.sharding(everywhere=True)), tree)

    def constrain(self, tree: Any) -> Any:
        """Keeps what a compiled program returns where `place` has put it."""
        if self.mesh is None:
            return tree
        return lax.with_sharding_constraint(tree, self.sharding())

    def replicate(self, tree: Any) -> Any:
        """Lays what a compiled program returns on every device, so that any process can read it."""
        if self.mesh is None:
            return tree
        return lax.with_sharding_constraint(tree, self.sharding(everywhere=True))

    def _spec(self) -> PartitionSpec:
        axis = _members_axis(self.mesh)
        return PartitionSpec() if axis is None else PartitionSpec(axis)  # One of a scalar is empty.


def make_layout(
    members: int | None, mesh: Mesh | None, batch_size: int, evaluation_size: int, model: Any
) -> Layout:
    """Checks that the mesh fits what is to be split; without one, all is where the model is.

    Raises:
      TypeError: no mesh.
      ValueError: axes of unknown names, or sizes that cannot be split evenly.
    """
    if mesh is None:
        return Layout(members, device=_device_of(model))
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh; got {kind_of(mesh)}. Pass for example "
            'jax.make_mesh((jax.device_count(),), ("batch",)).'
        )
    batch_axis, members_axis = _batch_axis(mesh), _members_axis(mesh)
    unknown = set(mesh.axis_names) - {batch_axis, members_axis}
    if unknown:
        raise ValueError(
            'the axes of mesh must be named "ensemble" or "batch" (or "data"); got '
            f'{mesh.axis_names}. Pass for example jax.make_mesh((8,), ("batch",)).'
        )
    if members_axis and members is None:
        raise ValueError(
            'a mesh with the axis "ensemble" needs a model with a leading axis; got a single '
            'model. Make one with rnn_jax.ensemble, or name the axis "batch".'
        )
    split = [("the ensemble", members, members_axis)] if members_axis else []
    if batch_axis:
        split += [("batch_size", batch_size, batch_axis)]
        split += [("evaluation_size", evaluation_size, batch_axis)]
    for what, size, axis in split:
        if size is not None and size % mesh.shape[axis]:
            raise ValueError(
                f"{what} must be a multiple of the {mesh.shape[axis]} devices along the mesh's "
                f"axis {axis!r}; got {size}. Pass {size + -size % mesh.shape[axis]}, or fewer "
                "devices."
            )
    # Explicit axes, the default of jax.make_mesh, would want every operation to name its layout.
    return Layout(members, Mesh(mesh.devices, mesh.axis_names))


def fetch(tree: Any) -> Any:
    """Numbers on the host, whole in every process."""
    if all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(_read, tree)
    # Between processes only plain arrays travel.
    bits = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)
    return jax.tree.map(_as_before, multihost_utils.process_allgather(bits, tiled=True), tree)


def _as_before(found: Any, leaf: Any) -> Any:
    if not is_key(leaf):
        return found
    return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(leaf))


def _read(leaf: jax.Array) -> Any:
    return leaf if is_key(leaf) else np.asarray(leaf)


def _put(sharding: Sharding, leaf: Any) -> jax.Array:
    if not is_key(leaf):
        return jax.device_put(leaf, sharding)
    # Devices of other processes take plain arrays only.
    bits = jax.device_put(jax.random.key_data(leaf), sharding)
    return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))


def _default_device() -> jax.Device:
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if chosen is None or isinstance(chosen, str):  # A string names a platform.
        return jax.local_devices(backend=chosen)[0]
    return chosen


def _device_of(model: Any) -> jax.Device | None:
    """The device to which a model is committed, if it is to any."""
    leaves = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
    return next((device for leaf in leaves if leaf.committed for device in leaf.devices()), None)


def _on_device(leaf: Any) -> jax.Array:
    return leaf if is_key(leaf) else jnp.asarray(leaf)


def _batch_axis(mesh: Mesh | None) -> str | None:
    names = () if mesh is None else mesh.axis_names
    return next((name for name in names if name in _BATCH), None)


def _members_axis(mesh: Mesh | None) -> str | None:
    return _MEMBERS if mesh is not None and _MEMBERS in mesh.axis_names else None
