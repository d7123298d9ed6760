"""The format of a checkpoint: all types and shapes come back, and nothing else passes for one."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rnn_jax.training.disk import files
from rnn_jax.training.disk.checkpoints import (
    Checkpoints,
    from_arrays,
    named_leaves,
    read_checkpoint,
    to_arrays,
    write_checkpoint,
)
from training import toys

TYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
]
SHAPES = [(), (0,), (3,), (2, 0, 3), (1, 5, 2)]
NOTES = {"metrics": {}, "probes": {}}


def arrays():
    """Of each type and shape, with odd numbers of bytes before them."""
    rng = np.random.default_rng(0)
    return {
        f"{dtype} {shape}": rng.integers(0, 2, shape).astype(dtype)
        for dtype in TYPES
        for shape in SHAPES
    }


def test_all_types_and_shapes_come_back(tmp_path):
    written = arrays()
    write_checkpoint(tmp_path / "a.ckpt", written, {"a": [1, 2.5, None, "é\n"]})
    found, notes = read_checkpoint(tmp_path / "a.ckpt")
    assert notes == {"a": [1, 2.5, None, "é\n"]}
    assert list(found) == list(written)
    for name, array in written.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.owndata or found[name].base.flags.owndata


def test_what_is_no_number_comes_back_bit_for_bit(tmp_path):
    bits = np.array([0x7FF8000000000001, 0xFFF0000000000000, 1 << 63], np.uint64)
    write_checkpoint(tmp_path / "a.ckpt", {"nan": bits.view(np.float64)}, {})
    assert read_checkpoint(tmp_path / "a.ckpt")[0]["nan"].tobytes() == bits.tobytes()


def test_arrays_that_do_not_lie_in_order_come_back(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4).T[::-1]
    write_checkpoint(tmp_path / "a.ckpt", {"a": array}, {})
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "a.ckpt")[0]["a"], array)


def test_a_state_with_keys_and_paths_that_read_alike_comes_back(tmp_path):
    state = {
        "a": {"b": jnp.zeros(2)},
        "a.b": jnp.ones(2),
        "key": jax.random.split(jax.random.key(3), 2),
        "rbg": jax.random.key(1, impl="rbg"),
        "raw": jax.random.PRNGKey(0),
        "small": jnp.ones((2, 2), ml_dtypes.bfloat16),
    }
    assert len({name for name, _ in named_leaves(state)}) == 6
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(3, state, NOTES)
    toys.identical(checkpoints.load(3, state)[0], state)


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ({"a": jnp.zeros(3)}, r"a is float64\[2\] there, float64\[3\] here"),
        ({"a": jnp.zeros(2, int)}, r"a is float64\[2\] there, int64\[2\] here"),
        ({"b": jnp.zeros(2)}, r"b is missing there, float64\[2\] here; a is .*, missing here"),
        ({str(n): jnp.zeros(1) for n in range(9)}, "and 7 more"),
    ],
)
def test_what_is_of_another_form_is_named(like, words):
    with pytest.raises(ValueError, match=words):
        from_arrays(to_arrays({"a": jnp.zeros(2)}), like)


def test_one_can_be_read_without_this_package(tmp_path):
    weights = np.arange(6.0).reshape(2, 3)
    write_checkpoint(tmp_path / "a.ckpt", {"first": np.int8([7]), "weights": weights}, {})
    _, header, body = (tmp_path / "a.ckpt").read_bytes().split(b"\n", 2)
    place = 0
    for name, dtype, shape in json.loads(header)["arrays"]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if name == "weights":
            found = np.frombuffer(body[place : place + size], dtype).reshape(shape)
        place += size
    np.testing.assert_array_equal(found, weights)


@pytest.mark.parametrize(
    "name", ["6", "06.txt", "6.ckpt.part", "x6.ckpt", "٣.ckpt", "-1.ckpt", "06.ckpt"]
)
def test_other_names_are_no_checkpoints(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    assert Checkpoints(tmp_path).steps() == []


def test_a_disk_that_does_not_give_back_what_was_written_is_noticed(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"a": jnp.zeros(3)}, NOTES)
    before = checkpoints.path(1).read_bytes()
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: write(fd, bytes(len(data))))
    with pytest.raises(OSError, match=r"a checkpoint could not be written .* does not give back"):
        checkpoints.save(2, {"a": jnp.zeros(3)}, NOTES)
    assert checkpoints.steps() == [1]
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1.ckpt"]
    assert checkpoints.path(1).read_bytes() == before


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_whatever_the_system_refuses_is_one_error_and_leaves_nothing(
    name, number, tmp_path, monkeypatch
):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    if name != "mkdir":
        checkpoints.save(1, {"a": jnp.zeros(3)}, NOTES)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        with pytest.raises(OSError, match=r"could not be written to .*: .*\. Earlier") as caught:
            checkpoints.save(2, {"a": jnp.zeros(3)}, NOTES)
    assert os.strerror(number) in str(caught.value)
    assert checkpoints.steps() == ([] if name == "mkdir" else [1])
    checkpoints.save(2, {"a": jnp.zeros(3)}, NOTES)
    assert checkpoints.steps()[0] == 2


def test_a_write_in_small_pieces_is_the_same(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    write_checkpoint(tmp_path / "a.ckpt", arrays(), {})
    monkeypatch.undo()
    write_checkpoint(tmp_path / "b.ckpt", arrays(), {})
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
