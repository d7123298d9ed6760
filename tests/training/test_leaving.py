"""Runs that are asked to leave, runs that share a directory, and what is asked of one meanwhile."""

import contextlib
import copy
import dataclasses
import functools
import os
import pickle
import signal
import threading
from typing import ClassVar

import pytest

import rnn_jax as rj
from rnn_jax.training.disk.failures import Failure
from rnn_jax.training.disk.files import locked
from training import killing, runs, toys

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(directory, result) of a run of 8 steps."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, runs.toy(directory)


def assert_ends_as(whole, directory):
    """The same call ends as the undisturbed run; says from which step it went on."""
    assert runs.result_bits(runs.toy(directory)) == runs.result_bits(whole[1])
    assert runs.records(directory) == runs.records(whole[0])
    return runs.sessions(directory, "start")[-1]["from_step"]


def asks_at(step, *numbers):
    """For `on_evaluation`: the process signals itself."""

    def look(row):
        if row["step"] == step:
            for number in numbers:
                signal.raise_signal(number)

    return look


@pytest.fixture
def handlers():
    """Handlers of the caller's own, which note what they are asked."""
    noted = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: noted.append(number))
    own = {number: signal.getsignal(number) for number in SIGNALS}
    yield noted
    assert {number: signal.getsignal(number) for number in SIGNALS} == own
    for number, handler in before.items():
        signal.signal(number, handler)


# Leaving.


def test_a_process_that_is_asked_to_leave_saves_and_says_so_by_its_exit_status(tmp_path):
    directory, keep = tmp_path / "run", tmp_path / "kept"
    process = runs.start_toy(directory, keep, steps=10**6)
    killing.wait(process, lambda: len(runs.rows(directory / "metrics.jsonl")) >= 3)
    os.kill(process.pid, signal.SIGTERM)
    assert runs.exit_status(process) == 128 + signal.SIGTERM
    left = runs.sessions(directory, "end")[-1]
    assert left["how"] == "asked to leave"
    steps = [row["step"] for row in runs.rows(directory / "metrics.jsonl")]
    assert left["to_step"] == steps[-1] < 10**6

    more = steps[-1] + 4
    process = runs.start_toy(directory, keep, steps=more)
    assert runs.exit_status(process) == 0
    assert runs.sessions(directory, "start")[-1]["from_step"] == steps[-1]
    at_once = runs.toy(tmp_path / "whole", steps=more)
    assert runs.records(directory) == runs.records(tmp_path / "whole")
    assert runs.kept(keep) == runs.result_bits(at_once)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("seconds", [0, 1000])
def test_nothing_is_lost_by_leaving(number, seconds, whole, tmp_path, handlers):
    with pytest.raises(rj.Terminated) as left:
        runs.toy(tmp_path, on_evaluation=asks_at(2, number), checkpoint_seconds=seconds)
    assert isinstance(left.value, SystemExit)
    assert (left.value.code, left.value.step) == (128 + number, 4)
    assert assert_ends_as(whole, tmp_path) == 4
    assert handlers == []


@dataclasses.dataclass(frozen=True)
class Asking(runs.Weights):
    """A probe that asks the process to leave whenever it is traced, or never."""

    asks: ClassVar[bool] = True

    def measure(self, model, xs):
        if self.asks:
            signal.raise_signal(signal.SIGTERM)
        return super().measure(model, xs)


def test_a_run_that_is_asked_while_it_compiles_leaves_after_its_first_evaluation(
    tmp_path, handlers, monkeypatch
):
    with pytest.raises(rj.Terminated) as left:
        runs.toy(tmp_path, probes=Asking(every=2))
    assert left.value.step == 2
    # Each call traces its programs, so it asks once more.
    with pytest.raises(rj.Terminated) as left:
        runs.toy(tmp_path, probes=Asking(every=2), steps=4)
    assert left.value.step == 4
    monkeypatch.setattr(Asking, "asks", False)
    assert runs.toy(tmp_path, probes=Asking(every=2), steps=4).steps == 4


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_asked_in_its_last_steps_leaves_too(number, whole, tmp_path, handlers):
    with pytest.raises(rj.Terminated) as left:
        runs.toy(tmp_path, on_evaluation=asks_at(8, number))
    assert (left.value.code, left.value.step) == (128 + number, 8)
    assert assert_ends_as(whole, tmp_path) == 8


def test_a_second_ctrl_c_is_obeyed_at_once(whole, tmp_path, handlers):
    with pytest.raises(KeyboardInterrupt):
        runs.toy(tmp_path, on_evaluation=asks_at(4, signal.SIGINT, signal.SIGINT))
    assert assert_ends_as(whole, tmp_path) == 4


def test_a_second_sigterm_is_no_more_than_one(whole, tmp_path, handlers):
    with pytest.raises(rj.Terminated):
        runs.toy(tmp_path, on_evaluation=asks_at(4, signal.SIGTERM, signal.SIGTERM))
    assert assert_ends_as(whole, tmp_path) == 6


def test_the_callers_handlers_are_its_own_before_and_after(whole, tmp_path, handlers):
    runs.toy(tmp_path / "finished")
    with pytest.raises(runs.Enough):
        runs.toy(tmp_path / "failed", on_evaluation=runs.leave_after(2))
    with pytest.raises(ValueError, match="another run"):
        runs.toy(tmp_path / "finished", seed=0)
    signal.raise_signal(signal.SIGTERM)
    assert handlers == [signal.SIGTERM]


def test_without_a_directory_the_callers_handlers_stay(handlers):
    runs.toy(None, on_evaluation=asks_at(2, *SIGNALS))
    assert handlers == SIGNALS


def test_a_thread_may_train_and_leaves_signals_alone(whole, tmp_path, handlers):
    found = []
    thread = threading.Thread(target=lambda: found.append(runs.toy(tmp_path)))
    thread.start()
    thread.join()
    assert runs.result_bits(found[0]) == runs.result_bits(whole[1])


@pytest.mark.parametrize("number", SIGNALS)
def test_it_says_where_it_was_saved_and_how_to_go_on(number, tmp_path, capsys, handlers):
    with pytest.raises(rj.Terminated) as left:
        runs.toy(tmp_path, on_evaluation=asks_at(4, number))
    said = capsys.readouterr().err
    assert said == f"{left.value}\n"
    name = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}[number]
    assert said.startswith(f"stopped by {name}: training is saved in {tmp_path} after step 6, and")
    assert "the same call goes on from there" in said
    runs.toy(tmp_path)
    assert capsys.readouterr().err == ""


COPIES = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_what_training_gives_or_raises_is_the_same(how, whole):
    left = COPIES[how](rj.Terminated(signal.SIGTERM, 7, whole[0]))
    assert (type(left), left.code, left.step, left.directory) == (rj.Terminated, 143, 7, whole[0])
    assert str(left) == str(rj.Terminated(signal.SIGTERM, 7, whole[0]))
    result = COPIES[how](whole[1])
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert type(result.history) is rj.History
    assert type(result.history.probes["weights"]) is rj.ProbeRecord
    for value in (
        rj.GradientFlowProbe(every=3),
        rj.GateProbe(every=2),
        rj.LyapunovProbe(every=5, k=2),
        Failure(member=1, step=3, kept=whole[0]),
    ):
        assert COPIES[how](value) == value
    norms = rj.record_gradient_norms().init(toys.linear())
    toys.identical(COPIES[how](norms), norms)


# Sharing.


def test_a_directory_in_which_another_process_trains_is_refused_until_that_ends(tmp_path):
    process = runs.start_toy(tmp_path, None, steps=10**6)
    killing.wait(process, lambda: len(runs.rows(tmp_path / "metrics.jsonl")) >= 1)
    with pytest.raises(OSError, match=f"another process is training in {tmp_path}"):
        runs.toy(tmp_path)
    assert process.is_alive()
    process.kill()
    assert runs.exit_status(process) == -signal.SIGKILL
    steps = runs.sessions(tmp_path, "start")[-1]["from_step"] + 2
    assert runs.toy(tmp_path, steps=steps).steps >= steps


@pytest.fixture
def inherited(monkeypatch):
    """Each file that is opened as a lock, as a process has it that is forked then."""
    kept, really = [], os.open

    def opened(path, *args, **kwargs):
        descriptor = really(path, *args, **kwargs)
        if os.path.basename(path) == "lock":
            kept.append(os.dup(descriptor))
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    yield kept
    for descriptor in kept:
        os.close(descriptor)


def test_a_process_that_was_forked_by_a_run_does_not_keep_others_out_after_it(inherited, tmp_path):
    runs.toy(tmp_path)
    assert inherited
    assert runs.toy(tmp_path, steps=10).steps == 10


def test_nor_does_it_let_others_in_when_it_leaves(inherited, tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(OSError, match="another process is training"), locked(tmp_path):
        pass


def test_a_second_run_in_the_same_process_is_refused_and_disturbs_nothing(whole, tmp_path):
    def look(row):
        with pytest.raises(OSError, match=f"another process is training in {tmp_path}"):
            runs.toy(tmp_path)

    result = runs.toy(tmp_path, on_evaluation=look)
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert runs.records(tmp_path) == runs.records(whole[0])


def test_a_model_may_be_restored_while_its_run_goes_on(whole, tmp_path):
    seen = []

    def look(row):
        with contextlib.suppress(FileNotFoundError):
            seen.append(runs.bits(rj.restore(tmp_path, toys.linear())))

    result = runs.toy(tmp_path, on_evaluation=look, steps=20)
    at_once = runs.toy(None, steps=20)
    assert runs.result_bits(result) == runs.result_bits(at_once)
    assert runs.bits(rj.restore(tmp_path, toys.linear())) == runs.bits(at_once.model)
    # What is restored is what some evaluation saw, and later ones see later models.
    models = [runs.bits(runs.toy(None, steps=steps).model) for steps in range(2, 21, 2)]
    places = [models.index(model) for model in seen]
    assert places == sorted(places)
    assert len(places) >= 8


def in_threads(*calls):
    """What each call gives, or raises, all of them at once."""
    outcomes = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def work(index):
        ready.wait()
        try:
            outcomes[index] = calls[index]()
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_several_threads_train_each_in_a_folder_of_its_own(whole, tmp_path):
    folders = [tmp_path / str(index) for index in range(4)]
    for steps in (4, 8):
        calls = [functools.partial(runs.toy, folder, steps=steps) for folder in folders]
        results = in_threads(*calls)
    for folder, result in zip(folders, results, strict=True):
        assert runs.result_bits(result) == runs.result_bits(whole[1])
        assert runs.records(folder) == runs.records(whole[0])


def test_of_two_threads_in_one_folder_the_second_is_refused(whole, tmp_path):
    (tmp_path / "link").symlink_to("run")
    begun, over = threading.Event(), threading.Event()

    def first():
        def look(row):
            begun.set()
            assert over.wait(60)

        return runs.toy(tmp_path / "run", on_evaluation=look)

    def second():
        assert begun.wait(60)
        try:
            return runs.toy(tmp_path / "link")
        finally:
            over.set()

    result, refused = in_threads(first, second)
    assert isinstance(refused, OSError)
    assert "another process is training in" in str(refused)
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert runs.records(tmp_path / "run") == runs.records(whole[0])
