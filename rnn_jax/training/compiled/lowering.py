"""The program of `fit` for devices that need not be there: lowered from forms alone."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rnn_jax.training.compiled.program import keys_of, training_call
from rnn_jax.training.data.batches import data_of
from rnn_jax.training.devices.layout import Layout
from rnn_jax.training.plan import Plan
from rnn_jax.training.step import TrainState, init_train_state


def lowered_call(
    plan: Plan, layout: Layout, model: Any, length: int, hyperparameters: Any = None
) -> jax.stages.Lowered:
    """What `fit` compiles for one call of its loop; `.compile()` does so, and nothing is run.

    Args:
      plan: how to train.
      layout: how many members, and for which devices: a mesh or a device, of this machine or of a
        topology that `jax.experimental.topologies` describes.
      model: its arrays or their forms, with a leading axis for members.
      length: training steps.
      hyperparameters: arrays or their forms with a leading axis, or None.
    """

    def start(_: None, model: Any, own: Any) -> TrainState:
        return init_train_state(plan, model, own)

    state = jax.eval_shape(layout.over_members(start), model, hyperparameters)
    key, probe_key = jax.eval_shape(lambda: keys_of(layout.members, 0))
    everywhere = layout.sharding(everywhere=True)
    arguments = (
        *_placed((state, key), layout.sharding()),
        _placed(probe_key, everywhere),
        _placed(hyperparameters, layout.sharding()),
        _placed(data_of(plan.task), everywhere),
        _placed(np.int32(0), everywhere),
    )
    # A device that is not there says what it is by the abstract mesh of a program alone.
    with jax.sharding.use_abstract_mesh(_mesh_of(layout).abstract_mesh):
        return jax.jit(training_call(plan, layout, length)).trace(*arguments).lower()


def _mesh_of(layout: Layout) -> Mesh:
    if layout.mesh is not None:
        return layout.mesh
    return Mesh(list(layout.sharding().device_set), ("device",))


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The forms of arrays that lie so."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
