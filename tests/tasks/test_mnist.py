"""MNIST pixel by pixel: that the images are those of the files, and files that are not."""

import gzip
import re
import struct
from pathlib import Path

import jax
import numpy as np
import pytest

from leaks import checking_leaks
from rnn_jax.tasks.mnist import SequentialMNIST
from tasks.drawing import draw, memoryless_loss

NAMES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
FILES = [f"{name}-ubyte" for name in NAMES]


def idx(array, kind=8):
    """The bytes of an IDX file."""
    array = np.asarray(array, np.uint8)
    return (
        bytes([0, 0, kind, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.tobytes())
    )


def contents(shape=(5, 3), classes=3):
    """Small images, drawn, of 40 and 12."""
    rng = np.random.default_rng(0)
    arrays = []
    for count in (40, 12):
        arrays.append(rng.integers(0, 256, (count, *shape)))
        arrays[-1][:, -1, -1] = 51 * rng.integers(0, 2, count)
        arrays.append(np.arange(count) % classes)
    return arrays


def write(directory, arrays, pack=lambda data: data, suffix=""):
    directory.mkdir(exist_ok=True)
    for name, array in zip(FILES, arrays, strict=True):
        (directory / (name + suffix)).write_bytes(pack(idx(array)))
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images"), contents())


@pytest.mark.parametrize("permuted", [False, True])
def test_every_row_is_an_image_with_its_label(directory, permuted):
    task = SequentialMNIST(directory, permuted)
    assert (task.steps, task.in_features, task.out_features) == (15, 1, 3)
    train_images, train_labels, test_images, test_labels = contents()
    held_out = task.sample_held_out(jax.random.key(0), 600)
    parts = [(draw(task, 600), train_images, train_labels), (held_out, test_images, test_labels)]
    for batch, images, labels in parts:
        known = {image.ravel()[task.order].tobytes(): i for i, image in enumerate(images)}
        pixels = np.rint(255 * np.asarray(batch.inputs[..., 0])).astype(int)
        np.testing.assert_allclose(batch.inputs[..., 0], pixels / 255, rtol=1e-15)
        rows = [known[row.tobytes()] for row in pixels]
        np.testing.assert_array_equal(batch.targets, labels[rows])
        assert set(rows) == set(range(len(images)))
        np.testing.assert_array_equal(batch.weights, np.ones(600))
    assert permuted == (task.order.tolist() != list(range(15)))


def test_packed_files_hold_the_same(directory, tmp_path):
    packed = write(tmp_path / "packed", contents(), gzip.compress, ".gz")
    named = write(tmp_path / "named", contents(), gzip.compress)
    batches = [
        SequentialMNIST(place).sample(jax.random.key(0), 4) for place in (directory, packed, named)
    ]
    for batch in batches[1:]:
        jax.tree.map(np.testing.assert_array_equal, batch, batches[0])


def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(directory, tmp_path):
    task = SequentialMNIST(directory)
    loss, bound = memoryless_loss(task, 20_000)
    assert bound < 0.01
    assert abs(loss - task.chance_loss) < bound + 5 * 0.1 / np.sqrt(20_000)
    # A last pixel that never changes leaves the entropy of the classes; one that tells all, none.
    images, labels, *rest = contents(classes=4)
    images[:, -1, -1] = 0
    same = SequentialMNIST(write(tmp_path / "same", [images, labels, *rest]))
    np.testing.assert_allclose(same.chance_loss, np.log(4))
    images[:, -1, -1] = 200 - labels
    telling = SequentialMNIST(write(tmp_path / "telling", [images, labels, *rest]))
    assert abs(telling.chance_loss) < 1e-15


def test_compiled_mapped_and_first_traced_it_draws_the_same(tmp_path):
    task = SequentialMNIST(write(tmp_path / "fresh", contents((4, 4), 10)))
    keys = jax.random.split(jax.random.key(0), 2)
    with checking_leaks():
        both = jax.jit(jax.vmap(lambda key: task.sample(key, 6)))(keys)
    for row in range(2):
        alone = task.sample(keys[row], 6)
        # Two programs: which images are drawn is the same, their scaling is so to rounding.
        jax.tree.map(lambda a, b, r=row: np.testing.assert_allclose(a[r], b, 1e-15), both, alone)
    assert task == SequentialMNIST(tmp_path / "fresh")
    assert hash(task) == hash(SequentialMNIST(tmp_path / "fresh"))
    single = jax.eval_shape(lambda: task.sample(keys[0], 6))
    assert single.inputs.shape == (6, 16, 1)


def test_it_can_be_given_on_a_command_line(directory):
    tyro = pytest.importorskip("tyro")
    told = ["--directory", str(directory), "--permuted", "--solved-above", "0.8"]
    assert tyro.cli(SequentialMNIST, args=told) == SequentialMNIST(directory, True, 0, 0.8)


def damaged(place, name, change):
    """A directory whose file of that name is changed."""
    write(place, contents())
    path = place / name
    path.write_bytes(change(path.read_bytes()))
    return place


LABELS, IMAGES = FILES[1], FILES[0]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (IMAGES, lambda data: data[:-1], "must hold 600 numbers.*got 599.*Fetch"),
        (IMAGES, lambda data: data + b"x", r"shape \(40, 5, 3\); got 601"),
        (IMAGES, lambda data: b"", "it has 0 bytes and begins with nothing"),
        (IMAGES, lambda data: data[:9], "it has 9 bytes"),
        (
            IMAGES,
            lambda data: b"<html>" + data,
            "begins with 00 00 08 03; .*with 3c 68 74 6d.*page",
        ),
        (IMAGES, lambda data: idx(np.zeros(40)), "with 3 axes.*begins with 00 00 08 01"),
        (LABELS, lambda data: idx(np.zeros((40, 1, 1))), "with 1 axes.*begins with 00 00 08 03"),
        (LABELS, lambda data: idx(np.zeros(40), kind=13), "unsigned bytes.*00 00 0d 01"),
        (LABELS, lambda data: idx(np.zeros(39)), f"{IMAGES}.*got 40 images of 5 by 3.* 39 labels"),
        (IMAGES, lambda data: gzip.compress(data)[:-9], "whole gzip file.*Fetch it again"),
        (IMAGES, lambda data: b"\x1f\x8b\x08rubbish of a kind", "whole gzip file"),
        (FILES[2], lambda data: idx(np.zeros((12, 5, 4))), "one size.*train have 15.*t10k 20"),
        (FILES[3], lambda data: idx(np.full(12, 3)), "t10k go up to 3 and those of train to 2"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(name, change, words, tmp_path):
    place = damaged(tmp_path / "damaged", name, change)
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)) as caught:
        SequentialMNIST(place)
    assert str(place) in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*absent"):
        SequentialMNIST(tmp_path / "absent")
    place = write(tmp_path / "short", contents())
    (place / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f"must hold {LABELS} or {LABELS}.gz"):
        SequentialMNIST(place)
    write(tmp_path / "none", [array[:0] for array in contents()])
    with pytest.raises(ValueError, match="at least one; got 0 images"):
        SequentialMNIST(tmp_path / "none")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda place: SequentialMNIST(3),
            TypeError,
            "directory must be a path; got 3 of type int",
        ),
        (lambda place: SequentialMNIST(place, "yes"), TypeError, "permuted must be True or False"),
        (lambda place: SequentialMNIST(place, solved_above=0.0), ValueError, "solved_above.*got 0"),
        (lambda place: SequentialMNIST(place, True, -2), ValueError, "permutation_seed.*got -2"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words, directory):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call(Path(directory))
