"""What tasks share that show an image pixel by pixel and ask for its class."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_count
from rnn_jax.tasks.base import Batch, CrossEntropy
from rnn_jax.tasks.own_data import Arrays


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes, on the host.

    Attributes:
      pixels: (N, T), unsigned bytes, the rows of each image one after another.
      labels: (N,), whole numbers from 0 on.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def on_device(self) -> Batch:
        """The images as they are stored: pixels (N, T, 1), bytes."""
        pixels, labels = jnp.asarray(self.pixels[..., None]), jnp.asarray(self.labels, jnp.int32)
        return Batch(pixels, labels, jnp.ones(len(self.labels), bool))


@dataclass(frozen=True, eq=False)
class Images:
    """The images to train on, and those held out for evaluation."""

    training: ImageSet
    held_out: ImageSet

    @functools.cached_property
    def on_device(self) -> tuple[Batch, Batch]:
        """Both, the same arrays each time; real ones even if the first to ask is being traced."""
        with jax.ensure_compile_time_eval():
            return self.training.on_device(), self.held_out.on_device()


class PixelByPixel(Arrays):
    """The images of a task, a quarter as large as they are shown: a byte for each pixel.

    Args:
      task: which images, in which order of pixels.
    """

    def __init__(self, task: "SequentialImages"):
        self.training, self.validation = task.images().on_device
        self.criterion, self.readout = task, task.readout
        self.in_features, self.out_features = task.in_features, task.out_features
        self.steps = self.shortest = task.steps

    @property
    def chance_loss(self) -> float:
        """That of the task, whose best predictor sees the last pixel."""
        return float(self.criterion.chance_loss)

    def prepare(self, batch: Batch) -> Batch:
        """Numbers from 0, black, to 1, white, in the order of the task."""
        pixels = batch.inputs[:, self.criterion.order].astype(float)
        inputs = pixels / self.criterion.white
        return Batch(inputs, batch.targets.astype(int), jnp.ones_like(inputs[:, 0, 0]))


class SequentialImages(CrossEntropy):
    """An image is shown pixel by pixel and its class is asked for at the end.

    A task that inherits it has the fields below and `solved_above`, and says which images.

    Attributes:
      permuted: whether the pixels come in one random order, the same for all images, instead of row
        by row.
      permutation_seed: what that order is drawn from.
    """

    permuted: bool
    permutation_seed: int

    readout: ClassVar[str] = "last"
    white: ClassVar[int]  # The greatest value of a pixel.

    def __post_init__(self) -> None:
        if not isinstance(self.permuted, bool):
            raise TypeError(
                f"permuted must be True or False; got {self.permuted!r}. Pass permuted=True for a "
                "random order of the pixels."
            )
        check_count("permutation_seed", self.permutation_seed, high=2**32 - 1)
        super().__post_init__()

    def images(self) -> Images:
        """The images, the same object each time."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """T: the pixels of an image."""
        return self.images().training.pixels.shape[1]

    @property
    def in_features(self) -> int:
        """I: the pixel."""
        return 1

    @property
    def out_features(self) -> int:
        """O: the classes."""
        return int(self.images().training.labels.max()) + 1

    @property
    def order(self) -> np.ndarray:
        """Which pixel each step shows, (T,)."""
        if not self.permuted:
            return np.arange(self.steps)
        # NumPy's frozen generator: the same order in every version.
        return np.random.RandomState(self.permutation_seed).permutation(self.steps)

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of the predictor that remembers nothing: H(class | the last pixel)."""
        training = self.images().training
        last = training.pixels[:, self.order[-1]]
        counts = np.zeros((256, self.out_features))
        np.add.at(counts, (last, training.labels), 1)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return float(-np.sum(counts * np.log(np.where(counts > 0, shares, 1))) / counts.sum())

    def arrays(self) -> PixelByPixel:
        """The images, for `fit`: it trains on them in epochs, and evaluates on all held out."""
        return PixelByPixel(self)

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch of the training images, with replacement.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 1), from 0, black, to 1, white; targets (B,), the classes; weights (B,).
        """
        return self.arrays().sample(key, batch_size)

    def sample_held_out(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch of the images held out, with replacement, of the form of `sample`."""
        images = self.arrays()
        return images.holding(images.validation, None).sample(key, batch_size)
