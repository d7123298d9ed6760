"""Every public call that is one program, compiled for devices that are not here."""

import re

import calls_of_measures
import calls_over_time
import platforms
import pytest

import rnn_jax as rj

platforms.require()
as_a_user = platforms.as_a_user

KERNEL = "__gpu$xla.gpu.triton"
CALLS = {**calls_over_time.CALLS, **calls_of_measures.CALLS}

# What the other files here compile.
IN_OTHER_FILES = {
    *(set(rj.cells.__all__) - {"Cell", "LinearForm", "RNNCell"}),  # test_compiled_cells.py
    "fixed_points",
    "continue_fixed_points",  # test_compiled_fixed_points.py
    "fit",
    "ensemble",
    "Flossing",
    "Orthogonality",
    "Term",
    "Vanishing",
    "WeightDecay",
    "GateProbe",
    "GradientFlowProbe",
    "LyapunovProbe",
    "record_gradient_norms",  # test_compiled_fit.py
    "tasks",  # test_compiled_tasks.py
}
NO_PROGRAMS = {
    "What a call returns": {
        "Attribution",
        "BackpropSignal",
        "Branch",
        "CovariantLyapunovVectors",
        "Estimate",
        "FitResult",
        "FixedPoints",
        "GradientFlow",
        "History",
        "JacobianOperator",
        "Linearization",
        "LocalLyapunovExponents",
        "LyapunovSpectrum",
        "MeanField",
        "MemoryPath",
        "NewtonSolution",
        "ProbeRecord",
        "RidgeReadout",
        "UnrollMethod",
    },
    "What a class of the user's must have or may inherit": {
        "Activation",
        "Cell",
        "LinearForm",
        "Probe",
        "RNNCell",
    },
    "Reads or writes arrays on the host": {
        "convert",
        "load",
        "member",
        "recorded_gradient_norms",
        "restore",
        "save",
    },
    "Plain Python numbers and words": {"activation_slope_range", "mean_field", "unroll_method"},
    "Holds calls of its own, or what runs where it is called": {"cells", "initializers", "testing"},
    "An exception": {"Terminated"},
}


# What of the calls over time no kernel runs: it is not in float32, has no fused form, or runs no
# sequence.
WITHOUT_KERNELS = {
    *("unroll: bfloat16", "as_cell", "Zoneout", "RecurrentDropout", "StackedCell"),
    "project_updates",
}


def public_name(call):
    return call.partition(":")[0]


def test_every_public_name_is_compiled_or_is_no_program():
    compiled = {public_name(call) for call in CALLS} | IN_OTHER_FILES
    no_programs = set().union(*NO_PROGRAMS.values())
    assert not compiled & no_programs
    assert compiled | no_programs == set(rj.__all__)


def products(text):
    """The lines of an executable's text that multiply matrices."""
    return re.findall(r"^.* (?:dot|convolution)\(.*$", text, flags=re.M)


def check(platform, text):
    """What holds of every executable for a platform."""
    # Layouts of a TPU have tiles, others have none.
    assert (":T(" in text) == (platform == "tpu")
    assert "callback" not in text, "a program calls the host"


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
@pytest.mark.parametrize("call", calls_over_time.CALLS)
def test_a_call_over_time_compiles(call, platform):
    function, arguments = CALLS[call]()
    text = platforms.compiled_for(platform, function, *arguments)
    check(platform, text)
    by_kernel = platform == "cuda" and call not in WITHOUT_KERNELS
    assert (KERNEL in text) == by_kernel


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
@pytest.mark.parametrize("call", calls_of_measures.CALLS)
def test_a_measure_compiles_and_multiplies_in_full_precision(call, platform):
    function, arguments = CALLS[call]()
    text = platforms.compiled_for(platform, function, *arguments)
    check(platform, text)
    rounded = [line for line in products(text) if "operand_precision={highest,highest}" not in line]
    assert not rounded
