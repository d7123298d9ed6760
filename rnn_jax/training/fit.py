"""Training: one call that runs, records, survives and resumes."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rnn_jax.checks import check_count, check_flag, check_number, check_size, kind_of
from rnn_jax.tasks.loader import Loader
from rnn_jax.training.compiled.fed_program import FedProgram
from rnn_jax.training.compiled.program import Program
from rnn_jax.training.data.feeding import Feed
from rnn_jax.training.devices import processes
from rnn_jax.training.devices.layout import fetch, make_layout
from rnn_jax.training.disk import configuration
from rnn_jax.training.disk.checkpoints import named_leaves
from rnn_jax.training.disk.files import folder_of
from rnn_jax.training.disk.journal import Journal
from rnn_jax.training.disk.run_directory import RunDirectory
from rnn_jax.training.disk.tensorboard import TensorBoard
from rnn_jax.training.display import Display, LiveDisplay
from rnn_jax.training.ensemble import ensemble_size
from rnn_jax.training.history import History, make_history
from rnn_jax.training.parameters.optimizer import check_hyperparameters
from rnn_jax.training.parameters.trainable import trained_mask
from rnn_jax.training.parameters.variables import check_model
from rnn_jax.training.plan import make_plan
from rnn_jax.training.probes import Probe
from rnn_jax.training.run import opened
from rnn_jax.training.stopping import Stopping


class FitResult(NamedTuple):
    """What training gave.

    Attributes:
      model: as it is after the last step, with a leading axis for an ensemble.
      history: losses, metrics and what probes saw.
      best_model: of the best evaluation, by default that with the smallest loss, for each member
        its own.
      steps: training steps done; fewer than asked for if all members stopped before.
      optimizer_state: as it is after the last step.

    Example:
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> task = rj.tasks.Adding(20)
      >>> result = rj.fit(model, task, optax.adam(1e-2), steps=20, batch_size=8, seed=0)
      >>> result.steps, result.history["mse"].shape
      (20, (1,))
      >>> result.best_model(xs).shape
      (1,)
    """

    model: Any
    history: History
    best_model: Any
    steps: int
    optimizer_state: Any


def fit(
    model: Any,
    task: Any,
    optimizer: Any,
    *,
    steps: int,
    batch_size: int | None = None,
    seed: int,
    directory: str | Path | None = None,
    resume: bool = True,
    probes: Probe | Sequence[Probe] = (),
    objective: Any = None,
    trainable: Any = None,
    mesh: Mesh | None = None,
    hyperparameters: Any = None,
    members: int | None = None,
    evaluate_every: int = 100,
    evaluation_size: int | None = None,
    stop_when_solved: bool = True,
    best: str | tuple[str, str] = "loss",
    patience: int | None = None,
    min_delta: float = 0.0,
    on_nonfinite: str = "stop",
    checkpoint_seconds: float = 10.0,
    progress: bool = False,
    on_evaluation: Callable[[dict[str, Any]], None] | None = None,
    tensorboard: bool = False,
    config: Any = None,
) -> FitResult:
    """Trains a model, or all members of an ensemble in one program, on a task.

    One call of a compiled loop makes `evaluate_every` steps: batches come from a key on the device,
    and step n of a member has the data of its number, however the run was cut. So a run with a
    directory that is killed and started again by the same call ends bit for bit where it would have
    ended, its files included.

    Devices do not wait for the host between two calls: one is started before the one before it is
    read, recorded and shown. That takes room for the members' state (model, best model, optimiser)
    three times. What was started after the last call that counts is dropped, and once all members
    have stopped it does nothing.

    Args:
      model: any callable pytree model(inputs (B, T, I)) -> outputs, such as a `SequenceModel`, or
        an ensemble of them made by `ensemble`. One whose call takes `key` is given one in training.
        Of an NNX module the `nnx.Param` are trained. Its other variables (batch statistics, random
        keys, counters, caches) and arrays are state: what a training step writes into them goes on
        to the next one and into checkpoints, and no optimiser and no gradient norm sees it. Of any
        other pytree every leaf is trained. Training calls modules as they are; evaluations and
        probes call a copy as after its `.eval()`, whose state goes no further. The model that is
        passed is never written to.
      task: what is learnt, such as rnn_jax.tasks.Adding(100); the user's own data as
        `rnn_jax.tasks.Arrays` where they fit on the device, and as `rnn_jax.tasks.Loader` where
        they do not. Where data have lengths or a mask, the model's call must take them.
      optimizer: an optax transformation or `optax.MultiSteps`; clipping belongs into it
        (`optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))`). Line searches such as
        `optax.lbfgs` see the loss on the batch, noise and state of their step.
      steps: training steps in all, below 2^31; a run that was longer already is left as it is.
      batch_size: B, sequences of each step and member; left out for a `Loader`, whose batches have
        their size.
      seed: of data and noise, in [0, 2^63). Member i of an ensemble draws from stream i, a single
        model from stream 0.
      directory: a folder for all of the run, see `RunDirectory`; None leaves nothing on disk. The
        name is taken literally, but for "~" at its beginning. Of the source it keeps the commit
        and the changes of files under git, and copies no other.
      resume: go on with the run in the directory, if there is one; False refuses it.
      probes: measured before step 0, every so many steps, and at the end; see `GradientFlowProbe`.
      objective: what is minimised beside the task's loss: a dict of terms by name, each a function
        (model, batch, outputs) -> scalar, one of this package's (`Flossing`, `Vanishing`,
        `Orthogonality`, `WeightDecay`), or a `Term` with a weight or a schedule of it; or one of
        this package's by itself. The name "task" is that of the task's own loss, and what stands
        there is its weight: {"task": 0.0, "mine": f} minimises f instead. Each term is a series of
        its own in the history; evaluations judge by the task's loss.
      trainable: which parameters are trained, as an optax-style mask (booleans in a pytree with the
        structure of the model or of a part of it from the top, or a function of the parameters that
        returns one) or a filter of NNX, such as nnx.PathContains("cells"). The others stay as they
        are, bit for bit: no gradient, no state of the optimiser and no decay is theirs.
      mesh: devices to spread over: an axis "batch" splits each batch, an axis "ensemble" the
        members. With several processes (`jax.distributed`), all make the same call. On GPUs that
        share a batch recurrences are scans; where they share members alone, each has its kernels.
      hyperparameters: E numbers, or a dict of them by name; then `optimizer` is a function of one
        member's share: optimizer=optax.adam, hyperparameters=[1e-3, 3e-3].
      members: E of an ensemble whose model does not itself say so, by `ensemble_size`.
      evaluate_every: steps between evaluations, each a row of the history.
      evaluation_size: fresh sequences in each evaluation; None is 256, rounded up to a multiple of
        batch_size. Of a validation set, how many are run at a time: all of them count.
      stop_when_solved: a member that has met the task's `solved` is left as it is; when all have,
        the run ends.
      best: the metric by which `best_model` is chosen, by its name in `History.metrics`: "loss",
        "accuracy", …; of one whose better direction is not known a pair, such as ("f1", "max").
      patience: evaluations without improvement of that metric after which a member stops, as it
        does when it has solved the task, see `History.stopped_at`; None is no end.
      min_delta: by how much the metric must be better than at the last improvement to be one.
      on_nonfinite: what a member does at a step whose loss, gradient or update is not finite, or
        makes its state so: "stop" for good, "skip" the step, or "raise" and end the run. Where it
        stops, all stays as it was before that step, and is kept in the directory for inspection;
        other members go on.
      checkpoint_seconds: least time between two checkpoints, and at least twenty times as long as
        writing one takes; 0 is one for each evaluation.
      progress: show how it is doing.
      on_evaluation: called after each evaluation with its row, as it stands in metrics.jsonl.
      tensorboard: also write the metrics for TensorBoard, into the directory.
      config: whatever the caller wants kept in config.json, large data as a digest; a run of
        another config is refused.

    Returns:
      A `FitResult`.

    Raises:
      ValueError: sizes out of range, unknown names, a mesh that does not fit, a directory that
        holds another run (other arguments, or other code in the task, model or optimiser) or a
        damaged or incomplete one.
      TypeError: arguments that are not what they should be.
      FileExistsError: the directory holds a run and `resume` is False.
      OSError: the directory cannot be written, or another call is training there.
      FloatingPointError: on_nonfinite="raise", with member and step.
      Terminated: with a directory, on SIGTERM or Ctrl-C, after all is saved and a line on the
        standard error has said so; a SystemExit.

    Example:
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> task = rj.tasks.Adding(20)
      >>> result = rj.fit(model, task, optax.adam(1e-2), steps=20, batch_size=8, seed=0)
      >>> [int(step) for step in result.history.step]
      [20]
      >>> float(model(xs)[0]) != float(result.model(xs)[0])  # What was passed is as it was
      True
    """
    feed = Feed(task) if isinstance(task, Loader) else None
    plan = make_plan(
        task if feed is None else feed.task,
        optimizer,
        batch_size=batch_size if feed is None else feed.check_batch_size(batch_size),
        evaluation_size=evaluation_size,
        evaluate_every=evaluate_every,
        stop_when_solved=stop_when_solved,
        on_nonfinite=on_nonfinite,
        probes=probes,
        hyperparameters=hyperparameters,
        best=best,
        patience=patience,
        min_delta=min_delta,
        objective=objective,
    )
    steps = check_count("steps", steps, high=2**31 - 1)
    seed = check_count("seed", seed, high=2**63 - 1)
    resume, progress = check_flag("resume", resume), check_flag("progress", progress)
    tensorboard = check_flag("tensorboard", tensorboard)
    seconds = check_number("checkpoint_seconds", checkpoint_seconds)
    if seconds < 0:
        raise ValueError(f"checkpoint_seconds must be at least 0; got {seconds}. Pass 0 or more.")
    if on_evaluation is not None and not callable(on_evaluation):
        raise TypeError(
            f"on_evaluation must be a function of a row; got {kind_of(on_evaluation)}. Pass for "
            "example print."
        )
    trained = trained_mask(model, trainable)
    model = check_model(model, trained)
    plan = dataclasses.replace(plan, trained=trained)
    members = _check_members(members, model)
    layout = make_layout(members, mesh, plan.batch_size, plan.evaluation_size, model)
    hyperparameters = check_hyperparameters(hyperparameters, members, model, trained)
    folder = _check_directory(directory, tensorboard)
    if feed is None:
        program = Program(plan, layout, seed, hyperparameters)
    else:
        program = FedProgram(feed, plan, layout, seed, hyperparameters)
        if folder is not None:
            feed.check_resumable()
    key_bits = fetch(jax.random.key_data(program.key))

    def journal() -> Journal:
        if folder is None:
            return Journal()
        description = configuration.describe(plan, model, members, hyperparameters, seed, config)
        return RunDirectory(folder, description, key_bits, resume=resume, seconds=seconds)

    title = f"{type(task).__name__}{'' if members is None else f' × {members}'}"
    shown = progress and processes.is_first()
    with contextlib.ExitStack() as stack:
        if feed is not None:
            stack.callback(feed.close)
        stopping = Stopping() if folder is None else stack.enter_context(Stopping())
        start = program.start(model)
        # Before anything is written, so that a mistake found here leaves no folder behind.
        program.check(start, steps)
        display = stack.enter_context(LiveDisplay(title, steps, plan) if shown else Display())
        run = stack.enter_context(opened(program, journal, start))
        if tensorboard and folder is not None and processes.is_first():
            run.board = TensorBoard(folder / "tensorboard", run.done)
            stack.callback(run.board.close)
        run.go(steps, stopping, display, on_evaluation or _nothing)
    return FitResult(
        model=run.state.model,
        history=make_history(run.journal.metric_rows, run.journal.probe_rows, members),
        best_model=run.state.best_model,
        steps=run.done,
        optimizer_state=run.state.optimizer_state,
    )


def _nothing(_: dict[str, Any]) -> None:
    pass


def _check_members(members: int | None, model: Any) -> int | None:
    if members is None:
        return ensemble_size(model)
    members = check_size("members", members)
    for name, leaf in named_leaves(model):
        if leaf.shape[:1] != (members,):
            raise ValueError(
                f"every array of an ensemble of {members} must have a leading axis of {members}; "
                f"got shape {leaf.shape} at {name}. Make the ensemble with rnn_jax.ensemble, or "
                "leave members out for a single model."
            )
    return members


def _check_directory(directory: str | Path | None, tensorboard: bool) -> Path | None:
    if directory is None:
        if tensorboard:
            raise ValueError(
                "tensorboard=True needs a directory to write into; got none. Pass directory=…"
            )
        return None
    folder = folder_of(directory)
    if str(directory) == "" or "://" in str(directory) or "\0" in str(directory):
        raise ValueError(
            f"directory must be a folder of this machine's file system; got {str(directory)!r}. "
            "Pass for example runs/first, and copy it elsewhere afterwards."
        )
    return folder
