"""What examples of the user's own are refused for, and what is said."""

import jax
import numpy as np

from refusing import refuses, table
from rnn_jax.tasks import Arrays, CrossEntropy, Loader, SquaredError
from tasks.examples import CLASSES, COUNT, INPUTS, LENGTHS, NUMBERS, VALID


def spoiled(array, place, value=np.nan):
    array = np.array(array)
    array[place] = value
    return array


@table(
    nan=(
        lambda: Arrays(spoiled(INPUTS, (2, 1, 0)), NUMBERS),
        ValueError,
        "inputs of the examples must be finite where they count",
        "nan in sequence 2, step 1",
        "lengths=",
    ),
    infinite_targets=(
        lambda: Arrays(INPUTS, spoiled(NUMBERS, 3, np.inf)),
        ValueError,
        "targets of the examples must be finite",
        "inf in sequence 3",
        "weights of 0",
    ),
    ragged=(
        lambda: Arrays([np.ones((3, 2)), np.ones((4, 2))], NUMBERS[:2]),
        TypeError,
        "inputs of the examples must be an array",
        "a list of 2",
        "pad",
    ),
    one_sequence=(
        lambda: Arrays(INPUTS[:, 0], NUMBERS),
        ValueError,
        "must have features, (N, T, I)",
        "(7, 2)",
        "[..., None]",
    ),
    no_rows=(
        lambda: Arrays(INPUTS[:0], NUMBERS[:0]),
        ValueError,
        "N and T at least 1",
        "(0, 4, 2)",
        "Pass",
    ),
    words=(
        lambda: Arrays(np.array([[["a"]]]), NUMBERS[:1]),
        TypeError,
        "must be an array of numbers",
        "Pass an array",
    ),
    fewer_targets=(
        lambda: Arrays(INPUTS, NUMBERS[1:]),
        ValueError,
        "that are numbers must have shape (N, O) or (N, T, O), here N = 7 and T = 4",
        "(6, 1)",
    ),
    flat_targets=(
        lambda: Arrays(INPUTS, NUMBERS[:, 0]),
        ValueError,
        "must have shape (N, O)",
        "float64 of shape (7,)",
        "targets[:, None]",
    ),
    negative_class=(
        lambda: Arrays(INPUTS, CLASSES - 1),
        ValueError,
        "name classes must be whole numbers from 0 on",
        "got -1",
        "Number the classes",
    ),
    too_many_classes=(
        lambda: Arrays(INPUTS, CLASSES, loss=CrossEntropy(classes=2)),
        ValueError,
        "must name classes below 2",
        "got 2",
        "more classes",
    ),
    long_lengths=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS + 1),
        ValueError,
        "lengths of the examples must lie in [1, 4]",
        "got 5 for sequence 0",
        "Clip",
    ),
    few_lengths=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS[1:]),
        ValueError,
        "one entry for each sequence, shape (7,)",
        "(6,)",
        "Pass",
    ),
    broken_lengths=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS * 1.0),
        TypeError,
        "lengths of the examples must be whole numbers",
        "float64",
        "Cast",
    ),
    lengths_and_mask=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS, mask=VALID),
        ValueError,
        "cannot be given together",
        "got both",
        "Pass one mask",
    ),
    empty_mask=(
        lambda: Arrays(INPUTS, NUMBERS, mask=spoiled(VALID, 4, False)),
        ValueError,
        "must have a valid step in each sequence",
        "sequence 4",
        "Leave",
    ),
    negative_weights=(
        lambda: Arrays(INPUTS, NUMBERS, weights=-np.ones(COUNT)),
        ValueError,
        "weights of the examples must be finite and at least 0",
        "-1.0",
        "Pass 0",
    ),
    nothing_counts=(
        lambda: Arrays(INPUTS, NUMBERS, weights=spoiled(np.ones(COUNT), 5, 0)),
        ValueError,
        "must have an answer that counts",
        "sequence 5",
        "Leave it out",
    ),
    class_of_a_loss=(
        lambda: Arrays(INPUTS, NUMBERS, loss=SquaredError),
        TypeError,
        "loss must be a function",
        "the class SquaredError",
        "SquaredError()",
    ),
    loss_of_numbers=(
        lambda: Arrays(INPUTS, CLASSES, loss=SquaredError()),
        ValueError,
        "SquaredError needs targets that are floats",
        "int64",
        "Cast",
    ),
    zero_class_weight=(
        lambda: CrossEntropy(class_weights=[1.0, 0.0]),
        ValueError,
        "class_weights must be positive",
        "[1. 0.]",
        "Pass",
    ),
    class_weights_and_classes=(
        lambda: CrossEntropy(classes=3, class_weights=[1.0, 2.0]),
        ValueError,
        "one number for each of the 3 classes",
        "got 2",
    ),
    all_split_off=(
        lambda: Arrays(INPUTS, NUMBERS, validation=1.0),
        ValueError,
        "validation as a share must lie in (0, 1)",
        "1.0 of 7",
        "Pass",
    ),
    other_validation=(
        lambda: Arrays(INPUTS, NUMBERS, validation=(INPUTS[..., :1], NUMBERS)),
        ValueError,
        "validation must be of the form of the examples",
        "float64[7, 4, 1]",
        "Pass",
    ),
    alone=(
        lambda: Arrays(INPUTS, NUMBERS, validation=INPUTS),
        TypeError,
        "validation must be inputs and targets",
        "ndarray",
        "tuple",
    ),
    unknown_name=(
        lambda: Arrays(INPUTS, NUMBERS, validation={"inputs": INPUTS, "labels": NUMBERS}),
        ValueError,
        "validation must have inputs and targets",
        "inputs, labels",
        "Rename",
    ),
    traced=(
        lambda: jax.jit(lambda xs: Arrays(xs, NUMBERS).steps)(INPUTS),
        TypeError,
        "must be read before anything is compiled",
        "traced",
        "outside",
    ),
    lengths_as_floats=(
        lambda: Arrays(INPUTS, NUMBERS, validation=(INPUTS, NUMBERS, LENGTHS * 1.0)),
        TypeError,
        "lengths of validation must be whole numbers",
        "float64",
        "Cast",
    ),
    lengths_for_weights=(
        lambda: Loader([], validation=(INPUTS, NUMBERS, LENGTHS)),
        TypeError,
        "weights of validation must be floats",
        "int64",
        "lengths=",
    ),
    no_source=(
        lambda: Loader(3, validation=(INPUTS, NUMBERS)),
        TypeError,
        "source must be an iterable of batches",
        "int",
        "Arrays",
    ),
    no_validation=(
        lambda: Loader([], validation=None),
        TypeError,
        "validation must be examples",
        "NoneType",
        "Pass",
    ),
    empty_validation=(
        lambda: Loader([], validation=[]),
        ValueError,
        "validation must have a batch",
        "none",
    ),
)
def test_data(call, error, words):
    refuses(call, error, *words)
