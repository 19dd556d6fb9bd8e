"""Writes what numpy makes of small fits, for the mapping tests: least-squares.json."""

import json
from pathlib import Path

import numpy as np

rng = np.random.default_rng(4)
ROWS, INPUTS, OUTPUTS = 60, 13, 7

# columns of different size and mean, as those of hidden states are
x = (rng.normal(size=(ROWS, INPUTS)) * rng.uniform(0.5, 30, INPUTS) + rng.normal(size=INPUTS) * 20).astype(np.float32)
true = rng.normal(size=(INPUTS, OUTPUTS))
y = (x @ true + rng.normal(size=(ROWS, OUTPUTS)) * 5 + 3).astype(np.float32)
new = rng.normal(size=(5, INPUTS)).astype(np.float32) * 10
x64, y64 = x.astype(np.float64), y.astype(np.float64)


def fit(share, has_bias):
    means = (x64.mean(0), y64.mean(0)) if has_bias else (np.zeros(INPUTS), np.zeros(OUTPUTS))
    a, b = x64 - means[0], y64 - means[1]
    if share == 0 and has_bias:
        ones = np.ones((ROWS, 1))
        solution = np.linalg.lstsq(np.hstack([x64, ones]), y64, rcond=None)[0]
        weights, bias = solution[:-1], solution[-1]
    else:
        ridge = share * np.sort((a**2).sum(0))[INPUTS // 2]
        # ridge as plain least squares: rows of its square root on the diagonal, with 0 for y
        rows = np.vstack([a, np.sqrt(ridge) * np.eye(INPUTS)])
        weights = np.linalg.lstsq(rows, np.vstack([b, np.zeros((INPUTS, OUTPUTS))]), rcond=None)[0]
        bias = means[1] - means[0] @ weights
    applied = new.astype(np.float64) @ weights + bias
    return {
        "kind": "affine" if has_bias else "linear",
        "ridge": share,
        "weight": weights.T.tolist(),
        "bias": bias.tolist(),
        "applied": applied.tolist(),
    }


def low_rank(share, rank):
    """Among the affine maps of that rank the one with the least squares: axes by singular values of what is made."""
    full = np.array(fit(share, True)["weight"]).T
    a, b = x64 - x64.mean(0), y64 - y64.mean(0)
    ridge = share * np.sort((a**2).sum(0))[INPUTS // 2]
    made = np.vstack([a, np.sqrt(ridge) * np.eye(INPUTS)]) @ full
    axes = np.linalg.svd(made)[2][:rank]
    weights = full @ axes.T @ axes
    bias = y64.mean(0) - x64.mean(0) @ weights
    applied = new.astype(np.float64) @ weights + bias
    return {"rank": rank, "ridge": share, "weight": weights.T.tolist(), "bias": bias.tolist(), "applied": applied.tolist()}


def kernel(share, frequencies, phases):
    # waves are float32 numbers, to which least squares are fitted
    waves = np.cos(x64 @ frequencies.T + phases).astype(np.float32).astype(np.float64)
    a, b = waves - waves.mean(0), y64 - y64.mean(0)
    ridge = share * np.sort((a**2).sum(0))[len(phases) // 2]
    rows = np.vstack([a, np.sqrt(ridge) * np.eye(len(phases))])
    weights = np.linalg.lstsq(rows, np.vstack([b, np.zeros((len(phases), OUTPUTS))]), rcond=None)[0]
    bias = y64.mean(0) - waves.mean(0) @ weights
    applied = np.cos(new.astype(np.float64) @ frequencies.T + phases) @ weights + bias
    return {
        "ridge": share,
        "frequencies": frequencies.tolist(),
        "phases": phases.tolist(),
        "weight": weights.T.tolist(),
        "bias": bias.tolist(),
        "applied": applied.tolist(),
    }


def mlp(activation):
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((9, INPUTS), (9,), (OUTPUTS, 9), (OUTPUTS,))]
    u, c, w, b = (values.astype(np.float64) for values in weights)
    hidden = new.astype(np.float64) @ u.T + c
    active = np.maximum(hidden, 0) if activation == "relu" else hidden / (1 + np.exp(-hidden))
    return {
        "activation": activation,
        "tensors": [values.tolist() for values in weights],
        "applied": (active @ w.T + b).tolist(),
    }


fits = [fit(share, has_bias) for has_bias in (False, True) for share in (0, 0.01, 2)]
frequencies = (rng.normal(size=(21, INPUTS)) / 60).astype(np.float32).astype(np.float64)
phases = rng.uniform(0, 2 * np.pi, 21).astype(np.float32).astype(np.float64)
data = {
    "x": x.tolist(),
    "y": y.tolist(),
    "new": new.tolist(),
    "fits": fits,
    "low_rank": [low_rank(share, rank) for share in (0, 0.5) for rank in (1, 3, OUTPUTS)],
    "kernel": kernel(0.01, frequencies, phases),
    "mlp": [mlp(activation) for activation in ("relu", "silu")],
}
Path(__file__).with_name("least-squares.json").write_text(json.dumps(data) + "\n")
