"""Exponents of the package's cells, as they start and once they have learnt something."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

import rnn_jax as rj
from exponents.training import learn

Make = Callable[[int, int, jax.Array], rj.RNNCell]

CELLS: dict[str, Make] = {
    "simple": lambda inputs, size, key: rj.SimpleRNNCell(inputs, size, rngs=nnx.Rngs(key)),
    "lstm": lambda inputs, size, key: rj.LSTMCell(inputs, size, rngs=nnx.Rngs(key)),
    "gru": lambda inputs, size, key: rj.GRUCell(inputs, size, rngs=nnx.Rngs(key)),
}
TITLES = {"simple": "simple, tanh", "lstm": "LSTM", "gru": "GRU"}


@dataclass(frozen=True)
class CellConfig:
    """How cells are measured and trained.

    Attributes:
      hidden: H.
      steps: over which exponents are averaged, after a warm-up of a quarter of it.
      delay: of the recall task, in steps.
      train_steps, batch_size, learning_rate: of the training.
      seeds: networks of each kind.
    """

    hidden: int
    steps: int
    delay: int
    train_steps: int
    seeds: int
    batch_size: int = 32
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class CellResult:
    """One kind of cell.

    Attributes:
      normal: exponents of untrained cells driven by independent normal numbers, (seeds, S).
      error: the largest standard error of a leading one of these.
      dimension: Kaplan and Yorke's, of these, (seeds,).
      before, after: exponents driven by the task's stream, untrained and trained, (seeds, S).
      loss: the task's mean squared error over the last tenth of the training, (seeds,).
    """

    normal: np.ndarray
    error: float
    dimension: np.ndarray
    before: np.ndarray
    after: np.ndarray
    loss: np.ndarray


def measure_cell(
    name: str, config: CellConfig, seed: int, on_chunk: Callable[[int], None]
) -> CellResult:
    """Measures, trains and measures again, all seeds in one program."""
    task = rj.tasks.DelayedRecall(config.delay)
    make, keys = CELLS[name], jax.random.split(jax.random.key(seed), config.seeds)
    length, warmup = config.steps + config.steps // 4, config.steps // 4

    def model(key: jax.Array) -> rj.SequenceModel:
        cell = make(task.in_features, config.hidden, key)
        rngs = nnx.Rngs(jax.random.fold_in(key, 1))
        return rj.SequenceModel(cell, task.out_features, readout="all", rngs=rngs)

    @jax.jit
    def spectra(models: rj.SequenceModel, xs: jax.Array) -> rj.LyapunovSpectrum:
        def one(model: rj.SequenceModel) -> rj.LyapunovSpectrum:
            return rj.lyapunov_exponents(model.cells[0], xs, warmup=warmup)

        return jax.vmap(one)(models)

    models = jax.vmap(model)(keys)
    key_normal, key_stream = jax.random.split(jax.random.key(seed + 1))
    normal = spectra(models, jax.random.normal(key_normal, (length, task.in_features)))
    stream = jax.random.uniform(key_stream, (length, task.in_features))
    before = spectra(models, stream)
    trained = learn(
        models,
        task,
        steps=config.train_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=seed,
        on_chunk=on_chunk,
    )
    last = max(1, trained.loss.shape[1] // 10)
    return CellResult(
        normal=np.asarray(normal.exponents),
        error=float(np.max(np.asarray(normal.standard_errors)[:, 0])),
        dimension=np.asarray(jax.vmap(lambda s: s.kaplan_yorke_dimension)(normal)),
        before=np.asarray(before.exponents),
        after=np.asarray(spectra(trained.networks, stream).exponents),
        loss=trained.loss[:, -last:].mean(axis=1),
    )
