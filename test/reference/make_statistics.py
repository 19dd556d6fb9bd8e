"""Writes statistics.json: what scipy, scikit-learn and rouge_score make of inputs that the file holds too."""

import json
from pathlib import Path

import numpy
import scipy
import sklearn
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

HERE = Path(__file__).resolve().parent

TEXTS = [
    ("Country in the Middle East", "Country in the Middle East"),
    ("Country in the Middle East", ": a country of the Middle East, in Asia"),
    ("American actor", "actor from America"),
    ("South Korean multinational electronics corporation", "South Korean multinational multinational corporation"),
    ("the cat and the dog", "the the the the"),
    ("one two three four five", "five four three two one"),
    ("one two three four five", "one three five two four"),
    ("Princess of Wales (1961-1997)", "princess: of wales, 1961 1997"),
    ("don't stop", "don t stop"),
    ("café in Zürich", "cafe in Zurich"),
    ("東京", "東京"),
    ("Kelvin 4K İstanbul", "kelvin 4k istanbul"),
    ("running runs run", "run runner running"),
    ("", "a text"),
    ("a text", ""),
    ("snake_case_name", "snake case name"),
    ("tab\tand\nline", "tab and line"),
    ("x", "x x x"),
]


def t_tails():
    return [
        [t, df, float(2 * stats.t.sf(t, df))]
        for df in [1, 2, 3, 5, 10, 26, 29, 100, 1000]
        for t in [0.001, 0.1, 0.5, 1, 1.5, 2.066, 5, 12.4, 40]
    ]


def tests(random):
    cases = []
    for n, shift in [(2, 0.1), (5, 1.0), (27, 0.02), (30, 0.5)]:
        a = numpy.round(random.normal(size=n), 6)
        b = numpy.round(a * 0.5 + random.normal(size=n) + shift, 6)
        found = stats.ttest_rel(a, b)
        case = {"a": a.tolist(), "b": b.tolist(), "t": found.statistic, "p": found.pvalue, "sd": float(a.std(ddof=1))}
        if n > 2:
            rounded = numpy.round(a, 0)  # has ties
            for name, result in [("pearson", stats.pearsonr(a, b)), ("spearman", stats.spearmanr(rounded, b))]:
                case[name] = [float(result.statistic), float(result.pvalue)]
            case["rounded"] = (rounded + 0.0).tolist()
        cases.append(case)
    return cases


def accuracies(random):
    """Of several groups: how many of 20 samples two methods get right at each of 27 layers."""
    cases = []
    for right in [(0.6, 0.5), (0.3, 0.32), (0.8, 0.2)]:
        counts = [random.binomial(20, share, size=27) for share in right]
        first, second = [count / 20 for count in counts]
        found = stats.ttest_rel(first, second)
        cases.append(
            {
                "samples": 20,
                "counts": [count.tolist() for count in counts],
                "means": [float(first.mean()), float(second.mean())],
                "sds": [float(first.std(ddof=1)), float(second.std(ddof=1))],
                "t": float(found.statistic),
                "df": int(found.df),
                "p": float(found.pvalue),
            }
        )
    return [{**case, "corrected": min(1.0, len(cases) * case["p"])} for case in cases]


def areas(random):
    cases = []
    for n, m, decimals in [(1, 1, 2), (7, 4, 0), (40, 25, 1)]:
        a = numpy.round(random.normal(1, 1, size=n), decimals) + 0.0
        b = numpy.round(random.normal(0, 1, size=m), decimals) + 0.0
        value = roc_auc_score([1] * n + [0] * m, numpy.r_[a, b])
        cases.append({"positives": a.tolist(), "negatives": b.tolist(), "auc": float(value)})
    return cases


def regressions(random):
    """More dimensions than samples, fewer, one sample twice, and directions of very different length."""
    cases = []
    for n, width, classes, c, lengths in [
        (40, 60, 3, 1.0, 0),
        (60, 8, 4, 0.1, 0),
        (50, 70, 5, 1.0, 1.5),
        (40, 30, 2, 10.0, 1),
        (60, 40, 6, 1.0, 3),
    ]:
        labels = numpy.arange(n) % classes
        centres = random.normal(size=(classes, width))
        samples = 0.4 * centres[labels] + random.normal(size=(n, width)) + random.normal(size=width)
        samples *= 10.0 ** numpy.linspace(lengths, -lengths, width)
        samples = numpy.round(samples, 3).astype(numpy.float32).astype(numpy.float64)
        samples[1] = samples[1 + classes]
        split = n * 3 // 4
        train, held = samples[:split], samples[split:]
        model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-9, max_iter=1000).fit(train, labels[:split])
        penalty = float((model.coef_**2).sum() / 2)
        likelihood = float(log_loss(labels[:split], model.predict_proba(train), normalize=False))
        cases.append(
            {
                "width": width,
                "c": c,
                "samples": numpy.round(samples, 3).ravel().tolist(),
                "trained": split,
                "labels": labels.tolist(),
                "loss": c * likelihood + penalty,
                "predictions": model.predict(held).tolist(),
            }
        )
    return cases


def rouges():
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    rows = []
    for reference, text in TEXTS:
        scores = scorer.score(reference, text)
        rows.append([reference, text, scores["rouge1"].fmeasure, scores["rougeL"].fmeasure])
    return rows


def main():
    random = numpy.random.default_rng(1)
    parts = {
        "versions": {"numpy": numpy.__version__, "scipy": scipy.__version__, "scikit-learn": sklearn.__version__},
        "tails": t_tails(),
        "tests": tests(random),
        "areas": areas(random),
        "regressions": regressions(random),
        "rouge": rouges(),
        "accuracies": accuracies(random),
    }
    lines = []
    for key, value in parts.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in value)
            lines.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    (HERE / "statistics.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
