"""MNIST, or another set of images of its form, read pixel by pixel."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rnn_jax.tasks.idx import read_idx
from rnn_jax.tasks.images import Images, ImageSet, SequentialImages


@dataclass(frozen=True)
class SequentialMNIST(SequentialImages):
    """Sequential MNIST: read an image one pixel a step, and name its class.

    The images are those of four IDX files in a directory, plain or gzipped under their published
    names: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    t10k-labels-idx1-ubyte. MNIST has 28 by 28 pixels, 784 steps, and Fashion-MNIST has the same
    form; any size and any number of classes will do. Pixels come from the upper left, row by row,
    or in one random order. `fit` trains on the training images, epoch by epoch, and evaluates on
    all of the others; `sample` draws from the former, `sample_held_out` from the latter.

    Who remembers nothing sees the last pixel when the class is asked for, and pays the entropy of
    the class given it. That is a number of the data: with the shares of the classes among the
    training images whose last pixel is the same it is the exact mean of what `sample` draws. The
    last pixel of MNIST is nearly always black, and leaves about ln 10 = 2.30.

    Attributes:
      directory: where the files are.
      permuted: whether the pixels come in one random order, the same for all images.
      permutation_seed: what that order is drawn from.
      solved_above: the share of right answers over which it counts as solved.

    Example:
      >>> from pathlib import Path
      >>> def write(name, array):  # the IDX format: what it holds, sizes, bytes
      ...     head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
      ...     Path(name).write_bytes(head + array.tobytes())
      ...
      >>> for part, count in ("train", 20), ("t10k", 5):
      ...     write(f"{part}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
      ...     write(f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
      ...
      >>> task = rj.tasks.SequentialMNIST(".")
      >>> task.sample(jax.random.key(0), 4).inputs.shape
      (4, 784, 1)
      >>> round(task.chance_loss, 3)  # black images say nothing: ln 10
      2.303

    References:
      Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
      recognition", 1998 (the images); Q. Le, N. Jaitly and G. Hinton, "A simple way to initialize
      recurrent networks of rectified linear units", 2015 (pixel by pixel, and permuted); H. Xiao,
      K. Rasul and R. Vollgraf, "Fashion-MNIST", 2017.
    """

    directory: Path
    permuted: bool = False
    permutation_seed: int = 0
    solved_above: float = 0.9

    white: ClassVar[int] = 255

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, Path)):
            raise TypeError(
                f"directory must be a path; got {self.directory!r} of type "
                f"{type(self.directory).__name__}. Pass the directory that holds the IDX files."
            )
        super().__post_init__()
        self.images()  # What is wrong with the files is said here, not at the first batch.

    def images(self) -> Images:
        """The images, the same object each time."""
        return _load(Path(self.directory))


@functools.lru_cache(maxsize=4)
def _load(directory: Path) -> Images:
    if not directory.is_dir():
        raise FileNotFoundError(
            f"directory must hold the IDX files; there is no directory {directory}. Pass the one "
            "that they were downloaded to."
        )
    training, held_out = (_read_set(directory, part) for part in ("train", "t10k"))
    if training.pixels.shape[1] != held_out.pixels.shape[1]:
        raise ValueError(
            f"the images in {directory} must be of one size; those of train have "
            f"{training.pixels.shape[1]} pixels and those of t10k {held_out.pixels.shape[1]}. Are "
            "they of two sets?"
        )
    if held_out.labels.max() > training.labels.max():
        raise ValueError(
            f"the labels in {directory} must be of one set; those of t10k go up to "
            f"{held_out.labels.max()} and those of train to {training.labels.max()}."
        )
    return Images(training, held_out)


def _read_set(directory: Path, part: str) -> ImageSet:
    images = _find(directory, f"{part}-images-idx3-ubyte")
    labels = _find(directory, f"{part}-labels-idx1-ubyte")
    pixels, classes = read_idx(images, axes=3), read_idx(labels, axes=1)
    if len(pixels) != len(classes) or pixels.size == 0:
        raise ValueError(
            f"{images} and {labels} must hold a label for each image, and at least one; got "
            f"{len(pixels)} images of {pixels.shape[1]} by {pixels.shape[2]} pixels and "
            f"{len(classes)} labels."
        )
    return ImageSet(pixels.reshape(len(pixels), -1), classes)


def _find(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{directory} must hold {name} or {name}.gz; it has neither.")
