"""Checks of a study of policies: recoverability, overlap, leaks, coarsening, disclosure."""

import json
import pathlib

import numpy as np
import pytest

from crl_jax.policy import diagnostics, value

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data/policy_golden.json").read_text())


@pytest.fixture
def confounded():
  """3,000 rows of 2,000 patients: e and the outcomes depend on x; two patterns overlap, of "rare"
  nearly all are treated."""
  rng, n = np.random.default_rng(0), 3000
  x, pattern = rng.normal(size=n), rng.choice(["text", "all", "rare"], n, p=(0.5, 0.45, 0.05))
  e = np.where(pattern == "rare", 0.995, np.clip(1 / (1 + np.exp(-x)), 0.05, 0.95))
  treatment = (rng.random(n) < e) * 1.0
  outcome = x - treatment + rng.normal(size=n)
  weight = lambda eps: treatment / np.clip(e, eps, 1) - (1 - treatment) / np.clip(1 - e, eps, 1)
  delta = lambda eps: -1 + weight(eps) * (outcome - x + treatment)
  return dict(x=x, pattern=pattern, e=e, treatment=treatment, outcome=outcome,
              patient=rng.integers(2000, size=n), deltas={eps: delta(eps) for eps in (0.01, 0.1)})


def overlap(c, **others):
  arguments = dict(e=c["e"], treatment=c["treatment"], deltas=c["deltas"], patient=c["patient"],
                   annotations=np.stack([c["x"], c["x"] > 0], 1).astype(float),
                   names=("x", "positive"), eps=0.01, pattern=c["pattern"])
  return diagnostics.overlap(**{**arguments, **others})


def test_golden_overlap():
  part = GOLDEN["dr"]
  e, treatment = np.array(part["e"]), np.array(part["T"])
  found = diagnostics.overlap(e, treatment, {0.01: np.array(part["delta_eps_0.01"])}, np.arange(5),
                              np.zeros((5, 0)), (), 0.01, least=1)
  golden = GOLDEN["overlap"]
  assert found["ess"]["treated"] == pytest.approx(golden["ess1"], abs=1e-12)
  assert found["ess"]["untreated"] == pytest.approx(golden["ess0"], abs=1e-12)
  assert found["clipped"] * 5 == golden["clipped_eps_0.01"]
  assert found["ate"][0]["value"] == pytest.approx(part["ate_eps_0.01"], abs=1e-12)
  assert "20%" not in "".join(found["warnings"]) and len(found["warnings"]) == 2   # few rows


def test_recoverability_and_its_control():
  rng, n = np.random.default_rng(0), 1500
  patient = rng.integers(1000, size=n)
  truth = rng.normal(size=(n, 3))
  annotations = np.stack([truth[:, 0] > 0.5, truth[:, 1] > 0, truth[:, 2] * 3 + 7], 1).astype(float)
  annotations[:200, 1] = np.nan
  good = truth + 0.3 * rng.normal(size=truth.shape)
  sigmoid = lambda v: 1 / (1 + np.exp(-v))
  told = np.stack([sigmoid(good[:, 0] - 0.5), sigmoid(good[:, 1]), good[:, 2] * 3 + 7], 1)
  found = diagnostics.recoverability(
      ("a", "b", "c"), annotations, {"all": told, "permuted": rng.permutation(told)}, patient,
      resamples=100)
  a, b, c = found["annotations"]
  from sklearn import metrics
  for line, j in ((a, 0), (b, 1)):
    known = ~np.isnan(annotations[:, j])
    y, p = annotations[known, j], told[known, j]
    entry = line["sources"]["all"]
    assert entry["auroc"]["value"] == pytest.approx(metrics.roc_auc_score(y, p))
    assert entry["f1"]["value"] == pytest.approx(metrics.f1_score(y, p >= 0.5))
    assert entry["auprc"]["value"] == pytest.approx(metrics.average_precision_score(y, p))
    assert entry["f1"]["lo"] < entry["f1"]["value"] < entry["f1"]["hi"]
    assert (line["n"], line["prevalence"]) == (len(y), pytest.approx(y.mean()))
  assert c["sources"]["all"]["r2"]["value"] == pytest.approx(
      metrics.r2_score(annotations[:, 2], told[:, 2]))
  assert c["sources"]["all"]["mae"]["value"] == pytest.approx(
      metrics.mean_absolute_error(annotations[:, 2], told[:, 2]))
  assert found["gate"] == {"passed": True, "reached": 2, "of": 2, "auroc": 0.7, "share": 0.8}
  assert found["control"]["auroc"] == pytest.approx(0.5, abs=0.04)
  assert found["control"]["warning"] is None
  leak = diagnostics.recoverability(("a", "b", "c"), annotations, {"all": told, "permuted": told},
                                    patient, resamples=100)["control"]
  assert leak["warning"].startswith("2 of 2 annotations")
  json.dumps(found, allow_nan=False)


def test_recoverability_of_few_is_withheld():
  y = np.zeros((60, 1))
  y[:4] = 1
  found = diagnostics.recoverability(("a",), y, {"all": y * 0.9}, np.arange(60), least=10,
                                     resamples=20)
  line, = found["annotations"]
  assert line["prevalence"] is None and line["sources"]["all"]["auroc"]["value"] is None
  assert "fewer than 10 patients" in line["sources"]["all"]["f1"]["reason"]
  assert found["gate"]["passed"] is None and found["control"]["auroc"] is None


def test_the_control_gives_every_row_another_patient():
  patient = np.random.default_rng(0).integers(40, size=200)
  for seed in range(5):
    rows = diagnostics.permutation(patient, seed)
    assert not (patient[rows] == patient).any()
    for who in range(40):   # one patient's rows get those of one
      assert len(set(patient[rows][patient == who])) <= 1
  assert not np.array_equal(rows, diagnostics.permutation(patient, 0))
  with pytest.raises(ValueError, match="two patients"):
    diagnostics.permutation(np.zeros(4), 0)


def test_misread_annotations():
  rng = np.random.default_rng(0)
  x = np.stack([rng.random(40_000) < 0.5, rng.normal(size=40_000)], 1).astype(np.float32)
  x[:100, 0] = np.nan
  found = diagnostics.misread(x, 0.8, 0.9, 0)
  np.testing.assert_array_equal(found[:, 1], x[:, 1])
  np.testing.assert_array_equal(np.isnan(found), np.isnan(x))
  assert found[x[:, 0] == 1, 0].mean() == pytest.approx(0.8, abs=0.01)
  assert found[x[:, 0] == 0, 0].mean() == pytest.approx(0.1, abs=0.01)
  np.testing.assert_array_equal(diagnostics.misread(x, 1.0, 1.0, 0), x)


def test_overlap(confounded):
  found = overlap(confounded)
  first, second = found["standardised"]
  assert first["before"] > 0.7 > 0.25 > abs(first["after"]) and second["before"] > 0.5
  assert [line["eps"] for line in found["ate"]] == [0.01, 0.1]
  assert found["ate"][0]["lo"] < -1 < found["ate"][0]["hi"]
  for bins in found["histogram"].values():
    assert sum(b["share"] for b in bins) == pytest.approx(1)
    assert bins[0]["lo"] == 0 and bins[-1]["hi"] == 1
    assert all(a["hi"] == b["lo"] for a, b in zip(bins, bins[1:]))
  json.dumps(found, allow_nan=False)
  x = np.where(np.arange(len(confounded["x"])) < 500, np.nan, confounded["x"])
  known = ~np.isnan(x)
  part = overlap(confounded, annotations=x[:, None], names=("x",))["standardised"][0]
  rest = overlap({k: v[known] if isinstance(v, np.ndarray) else {a: d[known] for a, d in v.items()}
                  for k, v in confounded.items()})["standardised"][0]
  assert part["before"] == pytest.approx(rest["before"])


def test_a_histogram_tells_of_no_few(confounded):
  e = np.r_[np.full(3, 0.01), np.full(50, 0.3), np.full(4, 0.97)]
  bins = diagnostics._histogram(e, np.arange(57), 10)
  assert [(b["lo"], b["hi"]) for b in bins] == [(0, 1)]
  bins = diagnostics._histogram(np.r_[e, np.full(20, 0.6)], np.arange(77), 10)
  assert [(round(b["lo"], 2), b["hi"]) for b in bins] == [(0, 0.35), (0.35, 1)]
  assert diagnostics._histogram(e[:5], np.arange(5), 10) == [{"lo": 0.0, "hi": 1.0, "share": 1.0}]


def test_a_pattern_of_one_arm_is_extrapolation_and_withheld(confounded):
  found = overlap(confounded)
  lines = {line["group"]: line for line in found["patterns"]}
  assert lines["rare"]["extrapolation"] and lines["rare"]["ate"]["value"] is None
  # the next larger pattern is withheld with it, but is no extrapolation
  assert lines["all"]["observed"] is None and not lines["all"]["extrapolation"]
  assert lines["text"]["ate"]["lo"] < -1 < lines["text"]["ate"]["hi"]
  assert any("absent in rare:" in text for text in found["warnings"])
  assert overlap(confounded, pattern=None)["patterns"] == []
  one = overlap(confounded, pattern=np.full(3000, "all"))
  assert [line["group"] for line in one["patterns"]] == ["all"]


def test_clipped_propensities_are_warned_of(confounded):
  assert not any("clipped" in text for text in overlap(confounded)["warnings"])
  row = np.arange(3000)
  e = np.select([row < 450, row < 900], [0.001, 0.999], confounded["e"].clip(0.1, 0.9))
  found = overlap(confounded, e=e)
  assert found["clipped"] == 0.3
  assert any("of the propensities are clipped" in text for text in found["warnings"])


def test_gains_and_the_product(confounded):
  c = confounded
  flat = dict(e=np.full(3000, c["treatment"].mean()), mu0=np.zeros(3000), mu1=np.zeros(3000))
  full = dict(e=c["e"], mu0=c["x"], mu1=c["x"] - 1)
  found = diagnostics.gains(c["treatment"], c["outcome"], flat, full, c["patient"])
  assert all(entry["lo"] > 0 for entry in found.values())
  rows = c["treatment"] == 1
  assert found["treated"]["value"] == pytest.approx(
      np.mean(c["outcome"][rows]**2 - (c["outcome"] - c["x"] + 1)[rows]**2))
  assert "x+phi" in diagnostics.leaking(found)
  treatment_only = diagnostics.gains(c["treatment"], c["outcome"], {**full, "e": flat["e"]}, full,
                                     c["patient"])
  assert treatment_only["treatment"]["lo"] > 0 == treatment_only["treated"]["value"]
  assert diagnostics.leaking(treatment_only) is None
  outcome_only = diagnostics.gains(c["treatment"], c["outcome"], {**flat, "e": full["e"]}, full,
                                   c["patient"])
  assert outcome_only["untreated"]["lo"] > 0 and diagnostics.leaking(outcome_only) is None
  binary = diagnostics.gains(c["treatment"], (c["outcome"] > 0) * 1.0,
                             dict(flat, mu0=flat["e"], mu1=flat["e"]),
                             dict(full, mu0=c["e"], mu1=c["e"]), c["patient"], binary=True)
  y, rows = (c["outcome"] > 0)[c["treatment"] == 0], c["treatment"] == 0
  loss = lambda p: -np.mean(np.where(y, np.log(p), np.log(1 - p)))
  assert binary["untreated"]["value"] == pytest.approx(loss(flat["e"][rows]) - loss(c["e"][rows]))


def test_coarsening_by_hand():
  benefit = np.array([1.0, -1.0, 0.2, -0.1])
  coarse = np.array([0.5, -0.5, -0.2, -0.2])
  found = diagnostics.coarsening(benefit, coarse, np.arange(4), least=1)
  assert found["kept"] == 0.5 and found["flipped"] == 0.25   # the last has d = g, yet stays
  assert found["regret"] == pytest.approx(0.05) and found["bound"] == pytest.approx(0.1)
  assert found["bias"] == pytest.approx((0.5 + 0.5 + 0.4 + 0.1) / 4)
  # ordered: all pairs but the last two, which are equal given phi
  assert found["pairs"]["ordered"] == pytest.approx(5 / 6, abs=0.01)
  # kept: only (1, -1): .5 + .5 < 2; (1, -.1): .6 < 1.1; (-1, -.1): .6 < .9; (-1, .2): .9 < 1.2
  assert found["pairs"]["kept"] == pytest.approx(4 / 6, abs=0.01)


def test_coarsening_bounds_hold_and_small_margins_flip():
  rng = np.random.default_rng(0)
  coarse = rng.normal(size=4000)
  benefit = coarse + 0.5 * rng.normal(size=4000)
  found = diagnostics.coarsening(benefit, coarse, np.arange(4000), cut=0.3)
  assert found["regret"] <= found["bound"] <= found["bias"]
  assert found["flipped"] <= 1 - found["kept"]
  assert found["pairs"]["kept"] < found["pairs"]["ordered"]
  flips = [line["flipped"] for line in found["by_margin"]]
  assert len(flips) == 10 and flips[0] > 0.4 > 0.02 > flips[-1]
  parts = diagnostics.decomposition(coarse + 0.2 * rng.normal(size=4000), benefit, coarse)
  assert parts["floor"] + parts["model"] == pytest.approx(parts["pehe2"], abs=0.02)
  assert parts["floor"] == pytest.approx(0.25, abs=0.02)
  assert diagnostics.decomposition(coarse, benefit, coarse, np.full(4000, 0.3))["floor"] == (
      pytest.approx(0.3))


def test_a_teacher():
  rng = np.random.default_rng(0)
  teacher = rng.normal(size=2000)
  f = teacher + rng.normal(size=2000) * 0.5
  found = diagnostics.taught(f, teacher, np.arange(2000), resamples=100)
  assert found["r2"]["lo"] < 0.75 < found["r2"]["hi"]
  assert found["r2"]["value"] == pytest.approx(
      1 - np.mean((teacher - f)**2) / np.var(teacher), abs=1e-12)
  assert found["kept"] == np.mean(np.abs(f - teacher) < np.abs(teacher))
  flat = diagnostics.taught(f, np.ones(2000), np.arange(2000), resamples=10)
  assert flat["r2"]["value"] is None and flat["r2"]["reason"]
  json.dumps(flat, allow_nan=False)


def test_policies_beside_each_other():
  n = 400
  a, b = np.arange(n, dtype=float), np.random.default_rng(0).permutation(n).astype(float)
  top = lambda v, q: (v >= n * (1 - q)) * 1.0
  pis = {"a": {0.1: top(a, 0.1), 0.5: top(a, 0.5)}, "b": {0.5: top(b, 0.5)}}
  line, = diagnostics.beside({"a": a, "b": b}, pis, [("a", "b")], {"risk": a}, np.arange(n))
  budget, = line["budgets"]
  assert budget["budget"] == 0.5 and budget["overlap"] == pytest.approx(0.5, abs=0.1)
  assert line["spearman"] == pytest.approx(np.corrcoef(a, b)[0, 1])
  assert budget["first"]["risk"] > 200 > budget["second"]["risk"]
  assert budget["first"]["n"] == value.agreement(pis["a"][0.5], pis["b"][0.5])["switched"] * n / 2
