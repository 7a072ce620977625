"""The simulated doctor's office: exact values by enumeration, and that samples agree with them."""

import re

import numpy as np
import pytest

from crl_jax.data.cohort import CohortError
from crl_jax.policy import data, phrases, simsum

EXACT = simsum.network()["golden_exact"]
WORLDS = simsum.network()["mmnar_worlds"]


def mean(values, p):
  return float(np.sum(p * values) / np.sum(p))


def adjusted(columns, p, e, mu0, mu1, keys):
  """E[ E[Y | K, T = 1] - E[Y | K, T = 0] ] over the cells of K, exactly."""
  at = cell(columns, keys)
  total = lambda values: np.bincount(at, values)
  given = total(p * e * mu1) / total(p * e) - total(p * (1 - e) * mu0) / total(p * (1 - e))
  return float(np.sum(total(p) * given))


def cell(columns, keys):
  """(N,) dense number of what the rows have in the columns `keys`."""
  code = 0
  for key in keys:
    code = 3 * code + columns[key]
  return np.unique(code, return_inverse=True)[1]


SEEN = (*simsum.SYMPTOMS, "fever", *simsum.TABULAR)


@pytest.fixture(scope="module")
def cells():
  columns, p = simsum.enumerate_cells()
  return columns, p, simsum.overlay(columns)


def test_enumeration_has_the_networks_exact_values(cells):
  columns, p, o = cells
  assert len(p) == 24576 and p.sum() == pytest.approx(1, abs=1e-12)
  found = {f"P({name})": mean(columns[name], p) for name in columns if name != "fever"}
  found |= {f"P({name})": mean(columns["fever"] == v, p) for v, name in enumerate(simsum.FEVER)}
  for name, value in found.items():
    assert value == pytest.approx(EXACT[name], abs=1e-12), name
  tau, over = o["mu1"] - o["mu0"], EXACT["overlay"]
  assert mean(o["e"], p) == pytest.approx(over["P(T)"], abs=1e-12)
  assert mean(o["mu0"], p) == pytest.approx(over["E[M0]"], abs=1e-12)
  assert mean(tau, p) == pytest.approx(over["ATE"], abs=1e-12)
  assert mean((tau - mean(tau, p))**2, p)**0.5 == pytest.approx(over["sd_tau"], abs=1e-12)
  assert mean(tau > 0, p) == pytest.approx(over["P(tau>0)"], abs=1e-12)
  assert (tau.min(), tau.max()) == pytest.approx((over["min_tau"], over["max_tau"]))
  naive = mean(o["mu1"], p * o["e"]) - mean(o["mu0"], p * (1 - o["e"]))
  assert naive == pytest.approx(over["naive_diff"], abs=1e-12)
  e, untreated, treated = simsum.original(columns)
  assert mean(e, p) == pytest.approx(EXACT["original"]["P(antibiotics)"], abs=1e-12)
  assert mean(treated - untreated, p) == pytest.approx(EXACT["original"]["ATE_days"], abs=1e-12)
  assert mean(o["mu0"] + np.minimum(tau, 0), p) == pytest.approx(
      EXACT["policies"]["oracle_treat_if_tau<0"], abs=1e-12)


def test_the_pattern_is_a_confounder_in_world_a():
  exact = WORLDS["A_pattern_is_a_confounder"]
  columns, p = simsum.enumerate_cells("A")
  o = simsum.overlay(columns, "A")
  assert mean(columns["note"], p) == pytest.approx(exact["P(delta)"], abs=1e-10)
  assert mean(o["e"], p * columns["note"]) == pytest.approx(exact["P(T|delta=1)"], abs=1e-10)
  for keys, value in ((SEEN, exact["adj(X)"]), ((*SEEN, "note"), exact["adj(X,delta)"])):
    assert adjusted(columns, p, o["e"], o["mu0"], o["mu1"], keys) == pytest.approx(value, abs=1e-9)


def test_the_bias_of_nuisances_without_phi_is_a_product():
  """E[Delta | X, delta] - E[Y(1) - Y(0) | X, delta] = (rho_1 - 1)(m_1 - mu_1) - (rho_0 - 1)(m_0 -
  mu_0), in every cell of world A, where Delta has nuisances on X alone."""
  columns, p = simsum.enumerate_cells("A")
  o = simsum.overlay(columns, "A")
  by = {}
  for name, keys in (("x", SEEN), ("all", (*SEEN, "note"))):
    at = cell(columns, keys)
    given = lambda values, weight: (np.bincount(at, weight * values) / np.bincount(at, weight))[at]
    by[name] = (given(o["e"], p), given(o["mu0"], p * (1 - o["e"])), given(o["mu1"], p * o["e"]))
  (e, mu0, mu1), (e_all, m0, m1) = by["x"], by["all"]
  score = mu1 - mu0 + e_all * (m1 - mu1) / e - (1 - e_all) * (m0 - mu0) / (1 - e)
  bias = (e_all / e - 1) * (m1 - mu1) - ((1 - e_all) / (1 - e) - 1) * (m0 - mu0)
  np.testing.assert_allclose(score - (m1 - m0), bias, atol=1e-13)
  assert (bias.min(), bias.max()) == pytest.approx((-0.42694878, -0.00159608), abs=1e-8)
  expected = WORLDS["A_pattern_is_a_confounder"]["E[Delta|delta] with nuisances on X"]
  for note in (0, 1):
    assert mean(score, p * (columns["note"] == note)) == pytest.approx(expected[str(note)],
                                                                       abs=1e-9)


@pytest.mark.parametrize("world, recorded, zero", [("B", -0.9783275617, -1.028104556),
                                                   ("C", -0.8141060952, None)])
def test_values_missing_not_at_random_in_worlds_b_and_c(world, recorded, zero):
  """Background moves neither who is recorded nor, but for self_empl, the outcome."""
  columns, p = simsum.enumerate_cells(world)
  o = simsum.overlay(columns, world)
  r = [f"R_{name}" for name in simsum.RECORDED]
  for name in simsum.RECORDED:
    columns[f"seen_{name}"] = columns[name] * columns[f"R_{name}"]
  seen = [f"seen_{name}" for name in simsum.RECORDED] + list(simsum.TABULAR)
  find = lambda keys: adjusted(columns, p, o["e"], o["mu0"], o["mu1"], keys)
  assert find(seen + r) == pytest.approx(recorded, abs=1e-9)
  if zero:
    assert find(seen) == pytest.approx(zero, abs=1e-9)
    complete = p * np.prod([columns[name] for name in r], 0)
    assert complete.sum() == pytest.approx(
        WORLDS["B_unconfounded_despite_missingness"]["share complete"], abs=1e-9)


def test_samples_have_the_exact_means():
  columns = simsum.draw(60000, 0)
  for name, p in EXACT.items():
    if name.startswith("P(") and name[2:-1] in columns:
      se = np.sqrt(p * (1 - p) / 60000)
      assert abs(columns[name[2:-1]].mean() - p) < 4 * se, name
  t, y = columns["T"] == 1, columns["Y"]
  naive = y[t].mean() - y[~t].mean()
  assert abs(naive - EXACT["overlay"]["naive_diff"]) < 4 * y.std() / np.sqrt(60000 / 4)
  assert abs(columns["antibiotics"].mean() - EXACT["original"]["P(antibiotics)"]) < 0.007
  assert abs(columns["days_at_home"].mean() - EXACT["original"]["E[days]"]) < 0.05


def test_another_style_of_notes_keeps_who_is_treated_and_another_seed_does_not():
  style = phrases.Style(mention=1.2, negation="plain", typos=0.1, compact=True, background=0)
  a, b, c = (simsum.make(300, seed, style=s) for seed, s in ((0, None), (0, style), (1, None)))
  np.testing.assert_array_equal(a.outcome, b.outcome)
  np.testing.assert_array_equal(a.treatment, b.treatment)
  assert (a.cohort.inputs["note"] != b.cohort.inputs["note"]).any()
  assert (a.outcome != c.outcome).any()
  assert not any("shared" in w or "said" in w or "outcome" in w
                 for w in data.validate(a).cohort.info["warnings"])
  with pytest.raises(CohortError, match="negation may be"):
    simsum.make(10, 0, style=phrases.Style(negation="none"))
  with pytest.raises(CohortError, match="the worlds"):
    simsum.make(10, 0, "A", truth="network")


def test_worlds_hide_notes_and_annotations():
  a, b = simsum.make(400, 0, "A"), simsum.make(400, 0, "B")
  note = a.cohort.observed[:, 1]
  assert 0.5 < note.mean() < 0.75 and not a.cohort.inputs["note"][~note].any()
  gaps = np.isnan(b.annotations)
  assert 0.4 < gaps[:, :7].mean() < 0.7 and not gaps[:, 7:].any() and b.cohort.observed.all()
  assert (gaps[:, 4] == gaps[:, 6]).all()   # a fever is recorded as a whole, or not at all


def test_notes_tell_symptoms_as_often_as_they_should_and_nothing_that_is_no_symptom():
  columns = simsum.draw(4000, 0)
  facts = simsum.network()["text"]
  texts = phrases.write(columns, facts, 0, phrases.Style(negation="plain"))
  forbidden = re.compile(r"\b(pneumonia|infection|policy|t|y)\b", re.IGNORECASE)
  assert not any(forbidden.search(text) for text in texts)
  for bank in (*phrases.PRESENT.values(), *phrases.ABSENT.values(), *phrases.BACKGROUND.values(),
               *(c for s in phrases.CHARACTER.values() for c in s.values())):
    assert len(set(bank)) >= 4 and not any(forbidden.search(line) for line in bank)
  assert min(len(set(bank)) for bank in phrases.DISTRACTORS) >= 20
  for name in simsum.SYMPTOMS:
    there = columns[name] == 1
    told = np.array([any(line in text for line in phrases.PRESENT[name]) for text in texts])
    denied = np.array([phrases.PLAIN[name] in text for text in texts])
    assert not told[~there].any() and not denied[there].any()   # never invented
    for found, p in ((told[there], facts["p_mention_if_present"][name]),
                     (denied[~there], facts["p_mention_if_absent"][name])):
      assert abs(found.mean() - p) < 4 * np.sqrt(p * (1 - p) / len(found)), name


def test_words_and_pairs_are_counted_in_the_columns_of_their_crc():
  import zlib
  counts = simsum.count_words(["No cough, no  fever 38.5", ""])
  expected = np.zeros(simsum.WORDS)
  for word in ("no", "cough", "no", "fever", "38.5", "no cough", "cough no", "no fever",
               "fever 38.5"):
    expected[zlib.crc32(word.encode()) % 1024] += 1
  np.testing.assert_allclose(counts[0], np.log1p(expected), rtol=1e-6)
  assert not counts[1].any()
