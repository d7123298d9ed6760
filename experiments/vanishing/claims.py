"""From measurements to verdicts: each claim is judged by its numbers, never by expectation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vanishing.networks import GATED, SIMPLE
from vanishing.results import Results

HOLDS = "holds"
CONDITION = "holds with a condition"
FAILS = "does not hold as stated"


@dataclass(frozen=True)
class Claim:
    """A statement and what was measured.

    Attributes:
      number: C1 … C10.
      statement: as the study notes have it.
      verdict: holds, holds with a condition, or does not hold as stated.
      measured: the deciding numbers, one line.
      remark: the condition, or what the claim leaves out.
      numbers: the same numbers for metrics.json.
    """

    number: str
    statement: str
    verdict: str
    measured: str
    remark: str
    numbers: dict[str, object]


def judge(results: Results) -> list[Claim]:
    """All ten claims, in order."""
    judges: list[Callable[[Results], Claim]] = [
        _chain,
        _sigmoid_slope,
        _geometric,
        _early_inputs,
        _recent_inputs,
        _tanh,
        _relu,
        _lstm,
        _gru,
        _learning,
    ]
    return [judge_one(results) for judge_one in judges]


def _chain(results: Results) -> Claim:
    worst = max(example.difference for example in results.chains)
    return Claim(
        "C1",
        "O_t = sigmoid(x_t W_I + O_{t−1} W_H + b); at t = 3 the derivative of O_3 with respect to "
        "step 1 is a chain of two one-step factors.",
        HOLDS if worst < 1e-14 else FAILS,
        f"factors multiplied by hand equal jax.jacrev to {worst:.0e}",
        "Two factors lead from O_3 to O_1, and a third, diag(φ′)W_Iᵀ, from O_1 to the input x_1.",
        {"largest_difference": worst},
    )


def _sigmoid_slope(results: Results) -> Claim:
    seen = results.slopes["sigmoid"]
    inside = seen.least > 0 and seen.greatest <= 0.25
    return Claim(
        "C2",
        "The sigmoid's derivative lies in (0, 0.25].",
        HOLDS if inside else FAILS,
        f"slopes {seen.least:.1g} to {seen.greatest:.4f} on {seen.values.size:,} unit-steps, "
        f"mean {seen.mean:.3f}",
        "0.25 is reached only at pre-activation 0; a typical unit multiplies by less.",
        {"least": seen.least, "mean": seen.mean, "greatest": seen.greatest},
    )


def _geometric(results: Results) -> Claim:
    decay, reach = results.decay, results.reach["sigmoid"]
    bounded = bool(np.all(decay.curve <= decay.bound + 1e-3 * (1 + np.abs(decay.bound))))
    shrinks = bounded and decay.linearity > 0.99 and reach.rate < 0
    grows = decay.chaotic_rate > 0
    last = results.steps - 1
    return Claim(
        "C3",
        "Repeated multiplication by such factors makes the chain shrink geometrically.",
        (CONDITION if grows else HOLDS) if shrinks else FAILS,
        f"{reach.rate:.2f} nats a step (R² {decay.linearity:.4f}), ln norm {decay.curve[-1]:.0f} "
        f"at lag {last}; float32 autodiff reads 0 from lag {reach.zero_lag}",
        f"Certain only while 0.25·σ₁(W_H) < 1; here σ₁ = {decay.largest:.2f}. A sigmoid network "
        f"with σ₁ = {decay.chaotic_largest:.1f}, biased to the steep middle, changes by "
        f"{decay.chaotic_rate:+.2f} nats a step instead.",
        {
            "rate": reach.rate,
            "rate_spread_over_seeds": reach.spread,
            "bound_per_step": math.log(0.25 * decay.largest),
            "bounded": bounded,
            "r_squared": decay.linearity,
            "log_norm_at_last_lag": float(decay.curve[-1]),
            "float32_zero_lag": reach.zero_lag,
            "counterexample_rate": decay.chaotic_rate,
            "counterexample_sigma": decay.chaotic_largest,
        },
    )


def _first_half(log_norms: np.ndarray) -> float:
    """ln of the first half's share in the sum of the norms."""
    half = len(log_norms) // 2
    return float(np.logaddexp.reduce(log_norms[:half]) - np.logaddexp.reduce(log_norms))


def _early_inputs(results: Results) -> Claim:
    shares = {name: _first_half(rows) for name, rows in results.shares.items()}
    steps = len(results.shares["sigmoid"])
    early = shares["sigmoid"] < math.log(0.01)
    return Claim(
        "C4",
        "Early inputs then contribute almost nothing to the weight update.",
        HOLDS if early else FAILS,
        f"the first {steps // 2} of {steps} steps have a share of {_power(shares['sigmoid'])} of "
        f"dL/dW (sigmoid), {_power(shares['tanh'])} (tanh), "
        f"{_power(shares['LSTM, forget bias 5'])} (LSTM, forget bias 5)",
        "For a loss at the last step. The update is then made by the last steps alone.",
        {"log_share_of_first_half": shares},
    )


def _recent_inputs(results: Results) -> Claim:
    ratios = {name: float(rows[-1] - rows[0]) for name, rows in results.signal.items()}
    steps = len(results.signal["sigmoid"])
    biased = ratios["sigmoid"] > math.log(100) and ratios["tanh"] > math.log(100)
    return Claim(
        "C5",
        "Late steps (say t = 50) keep a relatively large gradient, so the network is biased to "
        "recent inputs.",
        HOLDS if biased else FAILS,
        f"‖dL/dx_{steps}‖ / ‖dL/dx_1‖ = {_power(ratios['sigmoid'])} (sigmoid), "
        f"{_power(ratios['tanh'])} (tanh), {_power(ratios['GRU'])} (GRU), "
        f"{_power(ratios['LSTM, forget bias 5'])} (LSTM, forget bias 5)",
        "The bias is one of gradients at initialisation: what is hard to learn, not what the "
        "network could represent.",
        {"log_ratio_last_to_first": ratios},
    )


def _tanh(results: Results) -> Claim:
    tanh, sigmoid = results.reach["tanh"], results.reach["sigmoid"]
    eased = tanh.rate > sigmoid.rate
    return Claim(
        "C6",
        "tanh, with slope in (0, 1], eases the problem and does not remove it.",
        HOLDS if eased and tanh.rate < 0 else FAILS,
        f"{tanh.rate:.2f} nats a step against {sigmoid.rate:.2f} for sigmoid at equal weights; "
        f"1 % is left after {tanh.horizon} steps against {sigmoid.horizon}",
        f"Slopes met: {results.slopes['tanh'].mean:.2f} on average, against "
        f"{results.slopes['sigmoid'].mean:.2f}. Larger recurrent weights trade vanishing for "
        "chaos; see the picture of rate by gain.",
        {"tanh_rate": tanh.rate, "sigmoid_rate": sigmoid.rate},
    )


def _relu(results: Results) -> Claim:
    rates = {name: results.reach[name].rate for name in ("tanh", "ReLU", "leaky ReLU")}
    identity = results.reach["ReLU, W_h = identity"].rate
    growth = float(results.gains.rates["ReLU"][-1])
    much = max(rates["ReLU"], rates["leaky ReLU"]) > 0.5 * rates["tanh"]
    verdict = HOLDS if much else (CONDITION if identity > 0.1 * rates["tanh"] else FAILS)
    return Claim(
        "C7",
        "ReLU and leaky ReLU have slope 1 (or α) and prevent much of the shrinkage.",
        verdict,
        f"nats a step: ReLU {rates['ReLU']:.2f}, leaky ReLU {rates['leaky ReLU']:.2f}, tanh "
        f"{rates['tanh']:.2f} with orthogonal W_H; ReLU {identity:+.3f} with W_H = identity",
        f"Of the ReLU units {100 * results.dead.off:.0f} % are off at any step "
        f"({100 * results.dead.never_on:.0f} % at every step), and a slope of 0 passes nothing: "
        f"√½ a step is {0.5 * math.log(0.5):.2f} nats. Only initialisation removes the decay, and "
        f"the price is growth: {growth:+.2f} nats a step at σ₁(W_H) = "
        f"{results.gains.gains[-1]:.1f}.",
        {
            "rates": rates,
            "identity_rate": identity,
            "off": results.dead.off,
            "never_on": results.dead.never_on,
            "rate_at_largest_gain": growth,
        },
    )


def _lstm(results: Results) -> Claim:
    rates = {name: results.reach[name].rate for name in GATED if name.startswith("LSTM")}
    forget = {}
    for name in rates:
        gates = results.reach[name].flow.gates
        forget[name] = float(np.log(np.asarray((gates or {})["forget"])).mean())
    zero, one, five = rates.values()
    tanh = results.reach["tanh"].rate
    alive = five > 0.1 * tanh
    return Claim(
        "C8",
        "The LSTM's cell state and forget, input and output gates keep gradients alive.",
        (HOLDS if zero > 0.5 * tanh else CONDITION) if alive else FAILS,
        f"nats a step with forget bias 0, 1, 5: {zero:.2f}, {one:.2f}, {five:.3f} (tanh "
        f"{tanh:.2f}); 1 % is left after "
        + ", ".join(_horizon(results, name) for name in rates)
        + " steps",
        "It is the forget gate's bias that decides at initialisation: along the cell path alone, "
        "mean ln f is " + ", ".join(f"{value:.2f}" for value in forget.values()) + ". The other "
        "gates add paths of their own, so the whole (c, h) Jacobian decays a little differently.",
        {"rates": rates, "mean_log_forget_gate": forget, "tanh_rate": tanh},
    )


def _gru(results: Results) -> Claim:
    gru, lstm = results.reach["GRU"], results.reach["LSTM, forget bias 1"]
    biased = results.reach["GRU, update bias 5"]
    cost = results.seconds["GRU"] / results.seconds["LSTM, forget bias 1"]
    size = gru.parameters / lstm.parameters
    work = gru.operations / lstm.operations
    # By what can be counted: the time of so small a step changes with what else the machine does.
    fewer = size < 1 and work < 1
    same = gru.rate >= 1.5 * lstm.rate
    rescued = biased.rate > 0.1 * results.reach["tanh"].rate
    verdict = (HOLDS if same else CONDITION) if fewer and (same or rescued) else FAILS
    return Claim(
        "C9",
        "The GRU, with update and reset gates, does the same with fewer gates and less "
        "computation.",
        verdict,
        f"{gru.rate:.2f} nats a step (LSTM {lstm.rate:.2f}); {size:.2f} of its parameters; "
        f"{work:.2f} of its operations a step; {cost:.2f} of its time for a training step, here",
        f"With a zero update bias the GRU's gradients decay like tanh's "
        f"({results.reach['tanh'].rate:.2f}); with bias 1 and 5 the rate is "
        f"{results.reach['GRU, update bias 1'].rate:.2f} and {biased.rate:.3f}. Its reach, like "
        "the LSTM's, is set by a bias, and training finds it. Judged by parameters and "
        "operations: the time of a training step depends on the machine and its load.",
        {
            "rate": gru.rate,
            "lstm_rate": lstm.rate,
            "rate_update_bias_1": results.reach["GRU, update bias 1"].rate,
            "rate_update_bias_5": biased.rate,
            "parameters": gru.parameters,
            "lstm_parameters": lstm.parameters,
            "operations_per_step": gru.operations,
            "lstm_operations_per_step": lstm.operations,
            "seconds_per_training_step": results.seconds,
        },
    )


def _learning(results: Results) -> Claim:
    config = results.training_config
    solved = {name: run.solved for name, run in results.training.items()}
    none_simple = all(solved[name] == 0 for name in SIMPLE if name in solved)
    gated = [name for name in GATED if name in solved]
    all_gated = all(solved[name] == config.seeds for name in gated)
    some_gated = any(solved[name] == config.seeds for name in gated)
    unsolved = [name for name in gated if solved[name] < config.seeds]
    verdict = HOLDS if none_simple and all_gated else (CONDITION if some_gated else FAILS)
    return Claim(
        "C10",
        "So simple RNNs miss long-term dependencies, and gated networks learn them.",
        verdict,
        f"adding problem, T = {config.length}, solved within {config.steps} training steps: "
        + "; ".join(f"{name}: {count} of {config.seeds}" for name, count in solved.items()),
        "Training steps to solve, median: "
        + "; ".join(f"{name}: {_steps_to_solve(results, name)}" for name in gated)
        + ". "
        + (f"Not every seed of: {', '.join(unsolved)}. " if unsolved else "")
        + "Reach at initialisation is not fate: gates open while the network learns.",
        {
            "solved_seeds": solved,
            "steps_to_solve": {
                name: [None if math.isnan(at) else int(at) for at in run.solved_at]
                for name, run in results.training.items()
            },
            "final_mse": {
                name: [float(value) for value in run.loss[-1]]
                for name, run in results.training.items()
            },
        },
    )


def _power(log: float) -> str:
    """E to the power of a log, in plain figures while they are readable."""
    if abs(log) < 3:
        return f"{math.exp(log):.2g}"
    raised = f"{log:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"e{raised}"


def _horizon(results: Results, name: str) -> str:
    horizon = results.reach[name].horizon
    return f"at least {horizon}" if horizon == results.steps - 1 else str(horizon)


def _steps_to_solve(results: Results, name: str) -> str:
    run = results.training[name]
    if run.solved == 0:
        return "not solved"
    return f"{np.nanmedian(run.solved_at):.0f}"
