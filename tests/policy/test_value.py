"""Value and ranking of policies: golden values, identities by brute force, coverage, disclosure."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from crl_jax.policy import value

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data/policy_golden.json").read_text())


def arrays(*names):
  part = GOLDEN[names[0]]
  return [np.array(part[name]) for name in names[1:]]


@pytest.fixture
def world():
  """400 rows of 250 patients with ties in the priority and known truth; lower outcomes are
  better."""
  rng = np.random.default_rng(0)
  n = 400
  mu0, tau = rng.normal(size=n), -0.5 + rng.normal(size=n)
  priority = np.round(-tau + rng.normal(size=n), 0)
  return dict(mu0=mu0, mu1=mu0 + tau, benefit=-tau, priority=priority,
              patient=rng.integers(250, size=n))


def brute(priority, benefit, statistic, draws=4000):
  """Mean of a statistic of the ordered benefits over random orders of the ties."""
  rng = np.random.default_rng(0)
  return np.mean([statistic(benefit[np.lexsort((rng.random(len(priority)), -priority))])
                  for _ in range(draws)])


def test_golden_rates_with_ties():
  priority, benefit = arrays("rate", "priority", "benefit")
  found = value.rate(priority, benefit)
  assert found["autoc"] == pytest.approx(GOLDEN["rate"]["autoc"], abs=1e-12)
  assert found["qini"] == pytest.approx(GOLDEN["rate"]["qini"], abs=1e-12)


def test_golden_value_gain_and_effective_rows():
  pi, = arrays("value", "pi")
  gamma0, gamma1, e, treatment = arrays("dr", "gamma0_eps_0.01", "gamma1_eps_0.01", "e", "T")
  patient = np.arange(5)
  found = value.value(pi, gamma0, gamma1, patient)
  assert found["value"] == pytest.approx(GOLDEN["value"]["value"], abs=1e-12)
  assert found["se"] == pytest.approx(GOLDEN["value"]["se"], rel=1e-12)
  over = value.gain(pi, 0.0, gamma1 - gamma0, patient)
  assert over["value"] == pytest.approx(GOLDEN["value"]["gain_over_none"], abs=1e-12)
  ate = value.mean(gamma1 - gamma0, patient)
  assert ate["value"] == pytest.approx(GOLDEN["dr"]["ate_eps_0.01"], abs=1e-12)
  assert ate["se"] == pytest.approx(GOLDEN["dr"]["se_eps_0.01"], rel=1e-12)
  weight1, weight0 = value.weights(treatment, e, 0.01)
  assert value.ess(weight1) == pytest.approx(GOLDEN["overlap"]["ess1"], abs=1e-12)
  assert value.ess(weight0) == pytest.approx(GOLDEN["overlap"]["ess0"], abs=1e-12)


def test_rates_are_the_mean_over_orders_of_the_ties():
  """Every order of six rows with ties, by the definition."""
  priority, benefit = np.array([2., 1, 1, 1, 0, 0]), np.array([3., -1, 4, 0.5, 2, -2])
  orders = [np.array(o) for o in itertools.permutations(range(6))
            if np.all(np.diff(priority[list(o)]) <= 0)]
  k = np.arange(1, 7)
  tocs = np.array([np.cumsum(benefit[o]) / k - benefit.mean() for o in orders])
  found = value.rate(priority, benefit)
  assert found["autoc"] == pytest.approx(tocs.mean(), abs=1e-12)
  assert found["qini"] == pytest.approx((tocs * k / 6).mean(), abs=1e-12)
  np.testing.assert_allclose(value.toc(priority, benefit), tocs.mean(0), atol=1e-12)


def test_identities(world):
  """Section 7: AUTOC and QINI by their curves and by their weights; the mean of V_k."""
  n, b = len(world["benefit"]), world["benefit"]
  k = np.arange(1, n + 1)
  toc = value.toc(world["priority"], b)
  found = value.rate(world["priority"], b)
  assert found["autoc"] == pytest.approx(toc.mean(), abs=1e-12)
  assert found["qini"] == pytest.approx((toc * k / n).mean(), abs=1e-12)
  harmonic = np.cumsum(1 / k)
  distinct = np.argsort(np.argsort(-b))   # no ties
  order = np.argsort(distinct)
  autoc = np.mean((harmonic[-1] - np.r_[0, harmonic[:-1]] - 1) * b[order])
  qini = np.mean(((n - k + 1) / n - (n + 1) / (2 * n)) * b[order])
  found_b = value.rate(b, b)
  assert found_b["autoc"] == pytest.approx(autoc, abs=1e-12)
  assert found_b["qini"] == pytest.approx(qini, abs=1e-12)
  curve = value.curve(world["priority"], world["mu0"], world["mu1"])
  expected = world["mu0"].mean() - (found["qini"] + (n + 1) / (2 * n) * b.mean())
  assert curve.mean() == pytest.approx(expected, abs=1e-12)
  assert curve[-1] == pytest.approx(world["mu1"].mean(), abs=1e-12)


def test_reversed_constant_and_shuffled(world):
  priority, b = world["priority"], world["benefit"]
  found = value.rate(priority, b)
  assert value.rate(-priority, b)["qini"] == pytest.approx(-found["qini"], abs=1e-12)
  assert value.rate(np.full(len(b), 0.3), b) == {"autoc": 0.0, "qini": 0.0}   # exactly
  rows = np.random.default_rng(1).permutation(len(b))
  again = value.rate(priority[rows], b[rows])
  assert again["autoc"] == pytest.approx(found["autoc"], abs=1e-12)
  assert brute(priority[:9], b[:9], lambda s: np.mean(np.cumsum(s) / np.arange(1, 10)) - s.mean()
               ) == pytest.approx(value.rate(priority[:9], b[:9])["autoc"], abs=0.03)


def test_direction_is_in_the_benefit_alone(world):
  """Y -> -Y: the same ranking and values of opposite sign, exactly."""
  b, patient, pi = world["benefit"], world["patient"], (world["priority"] > 0) * 1.0
  for function in (value.value, lambda *a: value.gain(a[0], 0.5, a[2] - a[1], a[3])):
    up, down = (function(pi, sign * world["mu0"], sign * world["mu1"], patient) for sign in (1, -1))
    assert (up["value"], up["lo"], up["se"]) == (-down["value"], -down["hi"], down["se"])
  best = (b > 0) * 1.0
  assert value.regret(pi, best, b) == pytest.approx(
      value.true_value(pi, world["mu0"], world["mu1"])
      - value.true_value(best, world["mu0"], world["mu1"]), abs=1e-12)
  assert value.regret(pi, best, b) > 0 == value.regret(best, best, b)


def test_errors_by_hand():
  found = value.errors(np.array([1.0, 2]), np.array([0.0, 4]), np.array([1.0, 5]))
  assert found == {"pehe": pytest.approx(2.5**0.5), "bias": -0.5,
                   "rmse_phi": pytest.approx(4.5**0.5)}
  assert value.errors(np.ones(2), np.zeros(2))["rmse_phi"] is None


def test_intervals_are_by_patient():
  """A patient's row copied ten times is no more than one row."""
  rng = np.random.default_rng(0)
  psi = rng.normal(size=60)
  once = value.mean(psi, np.arange(60))
  copied = value.mean(np.repeat(psi, 10), np.repeat(np.arange(60), 10))
  assert copied["se"] == pytest.approx(once["se"], rel=1e-9)
  once, copied = (value.rankings({"a": np.repeat(psi, m)}, np.repeat(psi**2, m),
                                 np.repeat(np.arange(60), m))["policies"]["a"]["autoc"]
                  for m in (1, 10))
  assert copied["se"] == pytest.approx(once["se"], rel=0.1)
  alone = value.mean(psi, np.zeros(60, int))
  assert alone["lo"] is None and "fewer than two patients" in alone["reason"]
  with pytest.raises(ValueError, match="3 of 60 scores"):
    value.mean(np.where(np.arange(60) < 3, np.nan, psi), np.arange(60))


def test_half_samples_cover():
  """n = 800: the AUTOC of a fixed priority is within its interval about 95 times of 100; the spec
  measured 96.3 and 97.0 of 300."""
  rng, inside, test, draws = np.random.default_rng(0), 0, 0, 200
  # b = .5 s + noise, s uniform: E[b | s >= 1 - q] - E[b] = .25 (1 - q), its mean over q in (0, 1)
  # is .125; the finite n adds less than .001
  for _ in range(draws):
    s = rng.random(800)
    found = value.rankings({"s": s, "noise": rng.random(800)}, 0.5 * s + rng.normal(size=800),
                           np.arange(800), halves=60, seed=int(rng.integers(1e6)))["policies"]
    inside += found["s"]["autoc"]["lo"] <= 0.125 <= found["s"]["autoc"]["hi"]
    test += found["noise"]["autoc"]["p"] < 0.05
  assert 0.91 <= inside / draws <= 0.99
  assert 0.01 <= test / draws <= 0.09


def test_pairs_share_their_half_samples(world):
  b, patient = world["benefit"], world["patient"]
  near = b + 1e-6 * np.random.default_rng(0).normal(size=len(b))
  found = value.rankings({"a": b, "b": near, "c": -b}, b, patient, [("a", "b"), ("a", "c")])
  same, other = found["differences"]
  assert same["autoc"]["se"] < 0.01 * found["policies"]["a"]["autoc"]["se"]
  assert other["autoc"]["lo"] > 0 and other["autoc"]["p"] < 1e-4
  assert found["policies"]["a"]["autoc"]["p"] < 1e-4 < 0.99 < found["policies"]["c"]["autoc"]["p"]
  one = value.rankings({"r": world["priority"]}, b, patient)["policies"]["r"]["autoc"]
  two = value.rankings({"r": world["priority"], "c": -b}, b, patient)["policies"]["r"]["autoc"]
  assert one["p_holm"] == one["p"] == two["p"] == two["p_holm"] / 2
  flat = value.rankings({"flat": np.ones(len(b))}, b, patient)["policies"]["flat"]["autoc"]
  assert (flat["value"], flat["se"], flat["p"]) == (0.0, 0.0, 1.0)


def test_the_band_holds_the_whole_curve():
  """Benefit linear in the priority: TOC(q) = .25 (1 - q), inside at every q about 95 times of
  100."""
  rng, inside, draws = np.random.default_rng(0), 0, 100
  for _ in range(draws):
    s = rng.random(400)
    found = value.toc_band(s, 0.5 * s + rng.normal(size=400), np.arange(400), least=20,
                           multipliers=300)
    true = 0.25 * (1 - np.array(found["share"]))
    lo, hi = np.array(found["lo"]), np.array(found["hi"])
    inside += np.all((lo - 1e-9 <= true) & (true <= hi + 1e-9))
  assert 0.87 <= inside / draws <= 1.0
  assert len(found["share"]) == 20 and found["share"][-1] == 1.0
  assert found["value"][-1] == pytest.approx(0, abs=1e-12)
  # pointwise bands would be a third narrower
  width = found["hi"][5] - found["lo"][5]
  assert width > 2 * 2.3 * (1 / (6 / 20 * 400)) ** 0.5 * 0.7


def test_study_compares_at_equal_budgets(world):
  b, patient = world["benefit"], world["patient"]
  pis = {"a": {0.5: (b > np.median(b)) * 1.0}, "r": {0.5: np.full(len(b), 0.5)},
         "everyone": {None: np.ones(len(b))}}
  found = value.study({"a": b, "r": world["priority"]}, pis, world["mu0"], world["mu1"], b, patient,
                      [("a", "r")], least=20)
  entry, = found["policies"]["a"]["budgets"]
  assert entry["over_random"]["value"] == pytest.approx(
      np.mean((pis["a"][0.5] - 0.5) * -b), abs=1e-12)
  assert found["differences"][0]["budgets"][0]["value"]["value"] == pytest.approx(
      entry["over_random"]["value"], abs=1e-12)
  everyone = found["policies"]["everyone"]
  assert "autoc" not in everyone and everyone["budgets"][0]["over_random"]["value"] == 0
  assert everyone["budgets"][0]["value"]["value"] == pytest.approx(world["mu1"].mean())
  json.dumps(found, allow_nan=False)


def test_calibration():
  rng = np.random.default_rng(0)
  f = rng.normal(size=3000)
  delta = 0.5 * f + rng.normal(size=3000)
  found = value.calibration(f, delta, np.arange(3000))
  assert found["slope"]["lo"] < 0.5 < found["slope"]["hi"] < 0.6
  # E (d - f)^2 - E (d - mean)^2 = .25 - .25 = 0; at half the effects -.25
  assert found["error"]["lo"] < 0 < found["error"]["hi"]
  half = value.calibration(f / 2, delta, np.arange(3000))
  assert half["error"]["hi"] < -0.2 and half["slope"]["lo"] < 1 < half["slope"]["hi"]
  assert [g["n"] for g in found["groups"]] == [600] * 5
  flat = value.calibration(np.ones(3000), delta, np.arange(3000))
  assert flat["slope"]["value"] is None and len(flat["groups"]) == 1


def test_estimators_agree_where_all_is_right():
  rng, n = np.random.default_rng(0), 20_000
  x = rng.normal(size=n)
  e = np.clip(1 / (1 + np.exp(-x)), 0.05, 0.95)
  mu0, mu1, treatment = x, x - 0.5 - 0.5 * x, (rng.random(n) < e) * 1.0
  outcome = np.where(treatment > 0, mu1, mu0) + rng.normal(size=n)
  gamma1 = mu1 + treatment * (outcome - mu1) / e
  gamma0 = mu0 + (1 - treatment) * (outcome - mu0) / (1 - e)
  pi = (x > 0) * 1.0
  found = value.estimators(pi, treatment, outcome, e, mu0, mu1, gamma0, gamma1, np.arange(n), 0.01)
  true = value.true_value(pi, mu0, mu1)
  for name, room in (("dr", 0.05), ("direct", 1e-9), ("ipw", 0.08), ("self_normalised", 0.08)):
    assert found[name]["value"] == pytest.approx(true, abs=room), name
  assert found["spread"] < 0.1 and not found["warnings"]
  few = value.estimators(*(v[:90] for v in (pi, treatment, outcome, e, mu0, mu1, gamma0, gamma1,
                                            np.arange(90))), 0.01)
  assert len(few["warnings"]) == 2 and "effective rows are treated" in few["warnings"][0]
  nobody = value.estimators(pi * 0, treatment, outcome, e, mu0, mu1, gamma0, gamma1, np.arange(n),
                            0.01)
  assert nobody["ess"]["treated"] is None and not nobody["warnings"]


def test_a_raw_qini_needs_a_trial():
  rng = np.random.default_rng(0)
  treatment, s = (rng.random(4000) < 0.3) * 1.0, rng.random(4000)
  outcome = 5 + treatment * s + rng.normal(size=4000)
  with pytest.raises(ValueError, match="randomised=True"):
    value.trial_scores(treatment, outcome, False)
  found = value.trial_scores(treatment, outcome, True)
  assert value.rate(s, found)["qini"] == pytest.approx(1 / 12, abs=0.04)
  assert found.mean() == pytest.approx(0.5, abs=0.12)


def test_agreement_by_hand():
  a, b = np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 0])
  assert value.agreement(a, b) == {"overlap": 0.5, "expected": 0.5, "jaccard": 1 / 3, "kappa": 0.0,
                                   "switched": 0.5}
  half = np.full(4, 0.5)
  assert value.agreement(half, half)["overlap"] == 1.0
  assert value.agreement(a, half)["overlap"] == 0.5
  assert value.agreement(a * 0, b * 0)["overlap"] is None
  assert value.rank_agreement(np.arange(9), -np.arange(9.0)) == {
      "spearman": pytest.approx(-1), "kendall": pytest.approx(-1)}
  assert value.rank_agreement(np.arange(9), np.ones(9))["spearman"] is None


def test_switchers_are_told_of_many_only():
  n = 100
  first, second = (np.arange(n) < 40) * 1.0, ((np.arange(n) >= 5) & (np.arange(n) < 45)) * 1.0
  risk = np.arange(n, dtype=float)
  few = value.switchers(first, second, {"risk": risk}, np.arange(n), 10)
  assert few[0]["n"] == 5 and few[0]["risk"] is None and "fewer than 10" in few[0]["reason"]
  enough = value.switchers(first, second, {"risk": risk}, np.arange(n), 5)
  assert (enough[0]["risk"], enough[1]["risk"]) == (2.0, 42.0)


def test_risk_that_misleads_is_seen():
  rng = np.random.default_rng(0)
  risk = rng.normal(size=2000)
  found = value.risk_benefit(risk, -risk + rng.normal(size=2000), np.arange(2000))
  assert found["correlation"] == pytest.approx(-(0.5**0.5), abs=0.05)
  assert len(found["groups"]) == 10
  assert found["groups"][0]["benefit"]["lo"] > found["groups"][-1]["benefit"]["hi"]
  assert value.risk_benefit(np.ones(50), risk[:50], np.arange(50))["correlation"] is None
  assert len(value.risk_benefit(risk[:35], risk[:35], np.arange(35), 10)["groups"]) == 3


def test_groups_and_patterns_are_told_as_disclosure_says():
  """Five levels: c has too few treated, d too few patients; with c goes the next larger."""
  size = dict(a=200, b=150, c=60, d=6, e=80)
  level = np.repeat(list(size), list(size.values()))
  n = len(level)
  rng = np.random.default_rng(0)
  treatment = (rng.random(n) < 0.5) * 1.0
  treatment[level == "c"] = np.arange(60) < 3
  pi, effect = rng.random(n), rng.normal(size=n)
  found = value.by_group(level, np.arange(n), treatment, pi, effect, effect, 10)
  lines = {line["group"]: line for line in found}
  assert set(lines) == {"a", "b", "e", "c + rarer groups"}
  withheld = lines["c + rarer groups"]
  assert withheld["delta"]["value"] is None and withheld["observed"] is None and withheld["reason"]
  assert withheld["share"] == pytest.approx(pi[np.isin(level, ("c", "d"))].mean())
  assert lines["e"]["reason"] and "reason" not in lines["a"]
  assert lines["a"]["over_random"]["value"] == pytest.approx(
      np.mean((pi[level == "a"] - pi.mean()) * effect[level == "a"]))
  # a binary outcome that few of b have withholds b too
  outcome = (rng.random(n) < 0.5) * 1.0
  outcome[level == "b"] = 0
  lines = {line["group"]: line for line in value.by_group(
      level, np.arange(n), treatment, pi, effect, effect, 10, outcome)}
  assert lines["b"]["delta"]["value"] is None and lines["a"]["delta"]["value"] is not None
  assert value.by_group(level[:5], np.arange(5), treatment[:5], pi[:5], effect[:5], effect[:5],
                        10) == []
  json.dumps(found, allow_nan=False)


def test_fairness_at_equal_benefit():
  rng, n = np.random.default_rng(0), 3000
  sex, benefit = rng.choice(["f", "m"], n), rng.normal(size=n)
  benefit += (sex == "m")   # men gain more: by benefit more of them are treated, rightly
  fair = (benefit > 1) * 1.0
  found = value.fairness(sex, np.arange(n), fair, benefit, 10, permutations=50)
  assert found["value"] < 0.2 and found["p"] > 0.02
  unfair = (benefit - 0.5 * (sex == "f") > 1) * 1.0
  found = value.fairness(sex, np.arange(n), unfair, benefit, 10, permutations=50)
  assert (found["most"], found["fewest"]) == ("m", "f")
  assert found["value"] > 0.6 > 0.2 > found["expected"] and found["p"] < 0.05
  none = value.fairness(sex[:8], np.arange(8), fair[:8], benefit[:8], 10)
  assert none["value"] is None and "no two groups" in none["reason"]


def test_quantiles_leave_no_group_small():
  rng = np.random.default_rng(0)
  score = np.r_[np.zeros(45), rng.random(55)]
  found = value.quantiles(score, np.arange(100), 10, 10)
  assert sum(found).tolist() == [1] * 100 and min(map(np.sum, found)) >= 10
  assert all(len(set(mine[:45])) == 1 for mine in found)   # ties stay together
  assert len(value.quantiles(score[:5], np.arange(5), 10, 10)) == 1
  for low, tied in ((17, 25), (3, 30)):   # ties leave seven, or the first three, over
    score = np.r_[np.arange(low), np.full(tied, 50), np.arange(60, 120 - low - tied)]
    found = value.quantiles(score, np.arange(60), 6, 10)
    assert sum(found).tolist() == [1] * 60 and min(map(np.sum, found)) >= 10
    assert len(found) == 3
