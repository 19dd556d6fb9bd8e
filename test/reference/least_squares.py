"""Writes what numpy makes of small least squares, for the mapping tests: least-squares.json."""

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


data = {
    "x": x.tolist(),
    "y": y.tolist(),
    "new": new.tolist(),
    "fits": [fit(share, has_bias) for has_bias in (False, True) for share in (0, 0.01, 2)],
}
Path(__file__).with_name("least-squares.json").write_text(json.dumps(data) + "\n")
