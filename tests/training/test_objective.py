"""Objectives of one's own: against loops in plain JAX and optax, on disk, and where they fail."""

import dataclasses
import functools
import json
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

import rnn_jax as rj
from refusing import refuses, table
from training import runs, toys

PACE = {"steps": 6, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
TASK = toys.Mixing()
RATE = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.05, weight_decay=0.3))


def fit(objective, model=None, optimizer=RATE, **options):
    model = toys.linear() if model is None else model
    return rj.fit(model, TASK, optimizer, objective=objective, **{**PACE, **options})


def size_of(model, batch, outputs):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(model))


def spread_of(model, batch, outputs):
    return jnp.var(outputs) + 0.1 * jnp.mean(batch.inputs)


def jittered(model, batch, outputs, *, key):
    noise = jax.random.normal(key, batch.inputs.shape)
    return jnp.mean(jnp.square(model(batch.inputs + noise) - outputs))


def mirrored(model, batch, outputs, loss):
    """What teacher forcing does: the task's loss of a call with inputs of one's own."""
    return loss(model(-batch.inputs), batch)


def now_and_then(step):
    return jnp.where(step % 3 == 1, 0.5, 0.0)


INSTEAD = {"task": 0.0, "mirrored": mirrored}
# Of weights, of outputs, with a key and with the loss; by no weight, a number and a schedule.
EVERYTHING = {
    "task": optax.linear_schedule(0.0, 1.0, 4),
    "size": rj.Term(size_of, now_and_then),
    "whole size": size_of,
    "spread": rj.Term(spread_of, 0.3),
    "mirrored": rj.Term(mirrored, optax.cosine_decay_schedule(1.0, 10)),
    "jittered": rj.Term(jittered, 0.2),
}


def terms_by_hand(objective, model, batch, outputs, key, step):
    """(value, weight) by name."""
    found = {}
    for name, term in {"task": 1.0, **objective}.items():
        weight = term if name == "task" else getattr(term, "weight", 1.0)
        weight = weight(step) if callable(weight) else weight
        function = getattr(term, "function", term)
        if name == "task":
            value = TASK.loss(outputs, batch)
        elif function is jittered:
            own = jax.random.fold_in(jax.random.fold_in(key, 2), step)
            own = jax.random.fold_in(own, zlib.crc32(name.encode()))
            value = jittered(model, batch, outputs, key=own)
        elif function is mirrored:
            value = mirrored(model, batch, outputs, TASK.loss)
        else:
            value = function(model, batch, outputs)
        found[name] = (value, weight)
    return found


def by_hand(objective, optimizer, *models):
    """(model, losses, norms, (value, weight) of the terms) of each member's loop by hand."""

    @jax.jit
    def advance(model, state, key, step):
        batch, _ = toys.training_batch(TASK, key, step, PACE["batch_size"])

        def total(model):
            terms = terms_by_hand(objective, model, batch, model(batch.inputs), key, step)
            return sum(value * weight for value, weight in terms.values()), terms

        (loss, terms), gradient = jax.value_and_grad(total, has_aux=True)(model)
        updates, state = optimizer.update(gradient, state, model)
        norm = optax.tree.norm(gradient)
        return optax.apply_updates(model, updates), state, loss, norm, terms

    members = []
    for stream, model in enumerate(models):
        key, seen = toys.member_key(PACE["seed"], stream), []
        with toys.relaxed():
            state = optimizer.init(model)
            for step in range(PACE["steps"]):
                model, state, *found = advance(model, state, key, step)
                seen.append(jax.tree.map(float, found))
        members.append((model, *zip(*seen, strict=True)))
    return members


def agrees(result, objective, told, own=lambda found: found):
    """A run, or `own` member of it, is what the loop by hand saw."""
    model, losses, norms, terms = told
    toys.same(own(result.model), model)
    history, moments = result.history, (3, 6)
    np.testing.assert_allclose(own(history.loss), toys.means(losses, moments), rtol=1e-10)
    np.testing.assert_allclose(own(history.gradient_norm), toys.means(norms, moments), rtol=1e-10)
    assert set(history.terms) == {"task", *objective}
    for name, series in history.terms.items():
        # Where its weight is 0 a term is not evaluated, and has no part in the mean.
        values = [value if weight else np.nan for value, weight in (t[name] for t in terms)]
        np.testing.assert_allclose(own(series), toys.means(values, moments), rtol=1e-10)
        assert history[name] is series
        assert name in set(history)
    # What is judged is the task all the same.
    assert set(history.metrics) == {"loss", "mse", "worst"}
    np.testing.assert_array_equal(history.metrics["loss"], history.metrics["mse"])


def test_a_run_is_the_loop_that_one_would_write():
    result = fit(INSTEAD)
    agrees(result, INSTEAD, *by_hand(INSTEAD, RATE, toys.linear()))


def test_without_an_objective_there_are_no_terms_and_the_run_is_what_it_was():
    plain, weighed = fit(None), fit({"task": 1.0})
    assert plain.history.terms == {}
    toys.identical(weighed.model, plain.model)
    np.testing.assert_array_equal(weighed.history.terms["task"], plain.history.loss)


@functools.cache
def members_by_hand():
    return by_hand(EVERYTHING, RATE, toys.linear(1), toys.linear(2))


@pytest.mark.parametrize("spread", [False, True], ids=["in turn", "on a mesh"])
def test_members_of_an_ensemble_each_have_their_terms(spread):
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("ensemble", "batch"))
    result = fit(EVERYTHING, toys.linears(1, 2), members=2, mesh=mesh if spread else None)
    for index, told in enumerate(members_by_hand()):
        agrees(result, EVERYTHING, told, lambda tree, i=index: jax.tree.map(lambda a: a[i], tree))


def test_a_term_of_weight_0_is_not_evaluated():
    seen = []

    def counting(model, batch, outputs):
        jax.debug.callback(lambda: seen.append(1))
        return size_of(model, batch, outputs)

    fit({"size": rj.Term(counting, now_and_then)})
    jax.effects_barrier()
    assert len(seen) == 2
    history = fit({"size": rj.Term(counting, 0.0)}).history
    jax.effects_barrier()
    assert len(seen) == 2
    np.testing.assert_array_equal(np.isnan(history.terms["size"]), True)


@dataclasses.dataclass(frozen=True)
class Whole(toys.Mixing):
    """The same objective as a task's loss, for models whose outputs it is of."""

    def loss(self, outputs, batch):
        return super().loss(outputs, batch) + 0.3 * spread_of(None, batch, outputs)


def test_a_line_search_sees_the_whole_objective():
    """Also the value of each step, from which it goes down."""
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(8))
    result = fit({"spread": rj.Term(spread_of, 0.3)}, optimizer=optimizer)
    expected = rj.fit(toys.linear(), Whole(), optimizer, **PACE)
    toys.same(result.model, expected.model, rtol=1e-8)


class Counting(nnx.Module):
    """A model that counts its calls, and overwrites one of its parameters in each."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((2, 2)))
        self.written = nnx.Param(jnp.zeros(2))
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, inputs):
        self.calls[...] = self.calls[...] + 1
        self.written[...] = self.written[...] + 1.0
        return inputs[:, -1] @ self.kernel[...]


def test_what_a_term_writes_into_the_model_is_lost_with_it():
    model = Counting()
    terms = {"always": rj.Term(mirrored, 0.2), "at times": rj.Term(mirrored, now_and_then)}
    result = fit(terms, model, optax.sgd(0.1))
    assert int(result.model.calls[...]) == PACE["steps"]
    assert int(model.calls[...]) == 0


# Where terms are to be seen.


def test_terms_stand_in_the_rows_the_display_and_the_board(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    rows = []
    result = fit(
        {"size": size_of},
        directory=tmp_path,
        progress=True,
        tensorboard=True,
        on_evaluation=rows.append,
    )
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == rows
    for name, series in result.history.terms.items():
        assert [row["terms"][name] for row in written] == series.tolist()
    said = capsys.readouterr().err
    assert re.search(rf"size {result.history.terms['size'][-1]:.4g}", said)
    (board,) = (tmp_path / "tensorboard").iterdir()
    assert b"training/size" in board.read_bytes()


# On disk.


def test_a_run_in_parts_is_the_run_at_once_bit_for_bit(tmp_path):
    options = {
        "objective": EVERYTHING,
        "trainable": nnx.PathContains("kernel"),
        "optimizer": optax.adam(0.05),
    }
    at_once = runs.toy(tmp_path / "whole", **options)
    for steps in (2, 6, 8):
        in_parts = runs.toy(tmp_path / "parts", steps=steps, **options)
    assert runs.result_bits(in_parts) == runs.result_bits(at_once)
    assert runs.records(tmp_path / "parts") == runs.records(tmp_path / "whole")
    toys.identical(in_parts.model.args[0]["bias"], toys.linear().args[0]["bias"])
    np.testing.assert_array_equal(np.isfinite(at_once.history.terms["mirrored"]), True)


def doubled(model, batch, outputs):
    return 2.0 * size_of(model, batch, outputs)


# What a run had, all of it at once; the next calls differ in one thing each.
HAD = {
    "objective": {
        "size": size_of,
        "weighed": rj.Term(size_of, 0.1),
        "scheduled": rj.Term(size_of, optax.linear_schedule(0.0, 1.0, 4)),
        "by its name": lambda model, batch, outputs: jnp.mean(outputs),
    },
    "trainable": nnx.PathContains("kernel"),
}


def but(**terms):
    return {**HAD, "objective": {**HAD["objective"], **terms}}


# (what the next call has, what is said of it)
OTHERS = {
    "another weight": (
        but(weighed=rj.Term(size_of, 0.2)),
        r"objective\.weighed\.weight: 0\.1 there, 0\.2 here",
    ),
    "another weight of the task": (but(task=0.5), r"objective\.task: None there, 0\.5 here"),
    "another schedule": (
        but(scheduled=rj.Term(size_of, optax.linear_schedule(0.0, 1.0, 5))),
        r"objective\.scheduled: another program",
    ),
    "another function": (
        but(size=doubled),
        r"objective\.size: 'size_of' there, 'doubled' here",
    ),
    "another function by its name": (
        but(**{"by its name": lambda model, batch, outputs: jnp.mean(2.0 * outputs)}),
        r"objective\.by its name: another program",
    ),
    "no term": ({**HAD, "objective": None}, r"objective: .*there, None here"),
    "another freeze": (
        {**HAD, "trainable": nnx.PathContains("bias")},
        r"frozen\.0: '.*bias' there, '.*kernel' here",
    ),
    "no freeze": ({**HAD, "trainable": None}, r"frozen: \[.*bias'\] there, None here"),
}


@pytest.fixture(scope="module")
def had(tmp_path_factory):
    """The directory of a run that had all of it."""
    directory = tmp_path_factory.mktemp("had")
    runs.toy(directory, steps=2, **HAD)
    return directory


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_another_objective_is_refused(name, had):
    other, words = OTHERS[name]
    before = runs.tree_of(had)
    with pytest.raises(ValueError, match=rf"(?s)another run.*{words}"):
        runs.toy(had, **other)
    assert runs.tree_of(had) == before


# What is not finite.


@functools.cache
def sizes_of_batches():
    key = toys.member_key(PACE["seed"])
    return [
        float(jnp.mean(toys.training_batch(TASK, key, step, PACE["batch_size"])[0].inputs))
        for step in range(PACE["steps"])
    ]


@pytest.mark.parametrize("how", ["stop", "skip", "raise"])
def test_a_term_that_is_not_finite_is_named(how, tmp_path):
    sizes = sizes_of_batches()
    step, limit = int(np.argmax(sizes)), np.mean(sorted(sizes)[-2:])

    def breaking(model, batch, outputs):
        return jnp.where(jnp.mean(batch.inputs) > limit, jnp.inf, 0.0)

    objective = {"size": size_of, "breaking": breaking}
    said = rf"member 0: .*step {step} is not finite, by the objective's term 'breaking'\."
    call = functools.partial(fit, objective, on_nonfinite=how, directory=tmp_path)
    if how == "raise":
        with pytest.raises(FloatingPointError, match=said):
            call()
        return
    with pytest.warns(RuntimeWarning, match=said):
        result = call()
    assert result.history.failed_at == step
    assert result.history.skipped == 1
    if how == "stop":
        (notes,) = tmp_path.rglob("member-0-step-*")
        assert "breaking" in "".join(
            file.read_bytes().decode(errors="replace")
            for file in notes.rglob("*")
            if file.is_file()
        )


# What is refused.

two = rj.Term(size_of, lambda step: jnp.ones(2))


@table(
    a_function=(lambda: fit(size_of), TypeError, "must be a dict of terms by name", "function"),
    a_term=(lambda: fit(rj.Term(size_of)), TypeError, "must be a dict of terms", "Term", "Pass"),
    a_list=(lambda: fit([size_of]), TypeError, "must be a dict of terms", "list", "Pass"),
    nothing=(lambda: fit({}), ValueError, "must have at least one term", "empty", "Pass"),
    no_name=(lambda: fit({3: size_of}), TypeError, "name of a term must be", "3 of type int"),
    taken=(lambda: fit({"loss": size_of}), ValueError, "must not be named 'loss'", "Rename"),
    metric=(
        lambda: fit({"mse": size_of}),
        ValueError,
        "must not be named 'mse'",
        "a metric of the task",
        "Rename",
    ),
    probe=(
        lambda: fit({"weights": size_of}, probes=runs.Weights(every=2)),
        ValueError,
        "must not be named 'weights'",
        "Rename",
    ),
    all_zero=(
        lambda: fit({"task": 0, "size": rj.Term(size_of, 0.0)}),
        ValueError,
        "must leave something to minimise",
        "'task', 'size'",
        "another weight",
    ),
    only_zero=(lambda: fit({"task": 0.0}), ValueError, "must leave something", "'task'"),
    task_term=(
        lambda: fit({"task": "much"}),
        TypeError,
        "objective['task'] must be a number",
        "str",
        "Pass",
    ),
    number=(
        lambda: fit({"size": 0.1}),
        TypeError,
        "objective['size'] must be a function of model, batch and outputs",
        "float",
        "Pass",
    ),
    a_class=(lambda: fit({"size": rj.Flossing}), TypeError, "must be", "the class Flossing"),
    too_few=(
        lambda: fit({"size": lambda model: 0.0}),
        TypeError,
        "must be a function of model, batch and outputs",
        "(model)",
        "Pass",
    ),
    too_many=(
        lambda: rj.Term(lambda model, batch, outputs, task: 0.0),
        TypeError,
        "function must be a function of model, batch and outputs",
        "'task'",
        "Pass",
    ),
    weight_text=(
        lambda: rj.Term(size_of, "0.1"),
        TypeError,
        "weight must be a number, or a function",
        "str",
        "Pass",
    ),
    weight_nan=(lambda: rj.Term(size_of, np.nan), ValueError, "weight must be finite", "nan"),
    weight_shape=(
        lambda: fit({"size": two}),
        ValueError,
        "weight of the term 'size' must be one number",
        "(2,)",
        "Reduce",
    ),
    weight_words=(
        lambda: fit({"size": rj.Term(size_of, lambda step: "all")}),
        TypeError,
        "weight of the term 'size' must be a real number",
        "str",
    ),
    vector=(
        lambda: fit({"size": lambda model, batch, outputs: outputs}),
        ValueError,
        "'size' must return a scalar",
        "(4, 2)",
        "Return a mean",
    ),
    none=(
        lambda: fit({"size": lambda model, batch, outputs: None}),
        TypeError,
        "'size' must return a JAX scalar",
        "NoneType",
        "jax.numpy",
    ),
    whole_number=(
        lambda: fit({"size": lambda model, batch, outputs: jnp.int32(3)}),
        TypeError,
        "'size' must return a JAX scalar of real floats",
        "int32",
    ),
)
def test_objectives_that_are_refused(call, error, words):
    refuses(call, error, *words)


def test_what_is_refused_leaves_no_folder_behind(tmp_path):
    with pytest.raises(ValueError, match="'size' must return a scalar"):
        fit({"size": lambda model, batch, outputs: outputs}, directory=tmp_path / "run")
    assert not (tmp_path / "run").exists()
