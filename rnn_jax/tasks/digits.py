"""Handwritten digits of 8 by 8 pixels, read pixel by pixel."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rnn_jax.checks import check_count
from rnn_jax.tasks.images import Images, ImageSet, SequentialImages

# A fifth of the 1797 images.
_HELD_OUT = 360


@dataclass(frozen=True)
class SequentialDigits(SequentialImages):
    """Sequential digits: read an image of 8 by 8 pixels one pixel a step, and name the digit.

    The images are the 1797 that come with scikit-learn, in 64 steps from the upper left, row by
    row, or in one random order. A fixed fifth of them, 360, is held out: `fit` trains on the rest,
    epoch by epoch, and evaluates on all 360; `sample` draws from the rest, `sample_held_out` from
    them. A small stand-in for sequential MNIST that needs no download.

    Who remembers nothing sees the last pixel when the class is asked for, and pays the entropy of
    the class given it. That is a number of the data: with the shares of the classes among the
    training images whose last pixel is the same it is the exact mean of what `sample` draws, a
    little below ln 10 = 2.303, as little can be read off a corner.

    Attributes:
      permuted: whether the pixels come in one random order, the same for all images.
      permutation_seed: what that order is drawn from.
      split_seed: what the images held out are drawn from.
      solved_above: the share of right answers over which it counts as solved.

    Example:
      >>> task = rj.tasks.SequentialDigits(permuted=True)
      >>> task.sample_held_out(jax.random.key(0), 4).inputs.shape
      (4, 64, 1)
      >>> task.out_features, bool(task.chance_loss < np.log(10))
      (10, True)

    References:
      E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
      Repository, 1998 (the images); Q. Le, N. Jaitly and G. Hinton, "A simple way to initialize
      recurrent networks of rectified linear units", 2015 (pixel by pixel, and permuted, on MNIST).
    """

    permuted: bool = False
    permutation_seed: int = 0
    split_seed: int = 0
    solved_above: float = 0.9

    white: ClassVar[int] = 16

    def __post_init__(self) -> None:
        check_count("split_seed", self.split_seed, high=2**32 - 1)
        super().__post_init__()

    def images(self) -> Images:
        """The images, the same object each time."""
        return _load(self.split_seed)


@functools.lru_cache(maxsize=8)
def _load(split_seed: int) -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "SequentialDigits shows images that come with scikit-learn, which is not installed. "
            "Run pip install 'rnn_jax[experiments]'."
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    # NumPy's frozen generator: the same split in every version.
    order = np.random.RandomState(split_seed).permutation(len(labels))
    held_out, training = np.split(order, [_HELD_OUT])
    pixels = pixels.astype(np.uint8)
    return Images(
        ImageSet(pixels[training], labels[training]), ImageSet(pixels[held_out], labels[held_out])
    )
