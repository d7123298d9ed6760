"""What tasks share that show an image pixel by pixel and ask for its class."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_count, check_key, check_size
from rnn_jax.tasks.base import Batch, CrossEntropy


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes, on the host.

    Attributes:
      pixels: (N, T), unsigned bytes, the rows of each image one after another.
      labels: (N,), whole numbers from 0 on.
    """

    pixels: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def on_device(self) -> tuple[jax.Array, jax.Array]:
        """(the pixels in words of four, (N, ⌈T/4⌉), the labels, (N,)), the same arrays each time.

        A program that draws from them holds them as constants, and takes the longer to compile the
        more numbers they are: as words, the 60,000 images of MNIST add half a second, as bytes one
        and more. The scope makes them real arrays even if the first to ask is being traced.
        """
        padded = np.pad(self.pixels, ((0, 0), (0, -self.pixels.shape[1] % 4)))
        with jax.ensure_compile_time_eval():
            return jnp.asarray(padded.view("<u4")), jnp.asarray(self.labels, jnp.int32)

    def draw(self, key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        """(pixels, (B, T), unsigned bytes, and labels, (B,)) of images drawn with replacement."""
        words, labels = self.on_device
        index = jax.random.randint(key, (size,), 0, len(self.labels))
        pixels = jax.lax.bitcast_convert_type(words[index], jnp.uint8).reshape(size, -1)
        return pixels[:, : self.pixels.shape[1]], labels[index].astype(int)


@dataclass(frozen=True, eq=False)
class Images:
    """The images to train on, and those held out for evaluation."""

    training: ImageSet
    held_out: ImageSet


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

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch of the training images, with replacement.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 1), from 0, black, to 1, white; targets (B,), the classes; weights (B,).
        """
        return self._batch(self.images().training, key, batch_size)

    def sample_held_out(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch of the images held out, with replacement, of the form of `sample`."""
        return self._batch(self.images().held_out, key, batch_size)

    def _batch(self, images: ImageSet, key: jax.Array, batch_size: int) -> Batch:
        size = check_size("batch_size", batch_size)
        pixels, labels = images.draw(check_key(key), size)
        inputs = pixels[:, self.order].astype(float) / self.white
        return Batch(inputs[..., None], labels, jnp.ones_like(inputs[:, 0]))
