"""Cross-fitted nuisances: out of fold, of one arm each, in the worlds whose effects are exact."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.policy import annotations, nuisance, pseudo, simsum
from crl_jax.statistics import orthogonal

WORLDS = simsum.network()["mmnar_worlds"]


def settings(**changes):
  c = config_lib.default().policy.copy_and_resolve_references().unlock()
  c.update(changes)
  c.net.update(dict(width=8, learning_rate=1e-2, batch_size=64, epochs=8))
  return c


def folds_of(n, count):
  fold = np.arange(n) % count
  return [{"test": np.flatnonzero(fold == k), "val": np.flatnonzero(fold == (k + 1) % count),
           "train": np.flatnonzero((fold != k) & (fold != (k + 1) % count))} for k in range(count)]


@pytest.fixture(scope="module")
def rows():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((600, 2))
  t = (rng.random(600) < 1 / (1 + np.exp(-1.5 * x[:, 0]))).astype(float)
  return x, t, x[:, 1] + t + 0.3 * rng.standard_normal(600)


@pytest.mark.parametrize("kind", ["net", "linear", "boosting"])
def test_each_kind_finds_who_is_treated_and_what_follows(kind, rows):
  x, t, y = rows
  found = nuisance.fit(x, t, y, folds_of(600, 3), False, settings(nuisances=kind), 0)
  assert np.corrcoef(found.e, x[:, 0])[0, 1] > 0.7 and ((found.e > 0) & (found.e < 1)).all()
  for arm, mu in enumerate(found[1:]):
    assert np.corrcoef(mu, x[:, 1])[0, 1] > 0.7 and abs(mu.mean() - arm) < 0.35


@pytest.mark.parametrize("kind", ["net", "linear", "boosting"])
def test_a_rows_own_outcome_and_rows_without_weight_change_nothing(kind, rows):
  x, t, y = rows
  folds, weight = folds_of(600, 3), np.ones(600)
  weight[::7] = 0
  fit = lambda y: nuisance.fit(x, t, y, folds, False, settings(nuisances=kind), 0, weight)
  other = y.copy()
  other[folds[1]["test"]] += 5
  a, b = fit(y), fit(other)
  np.testing.assert_allclose(a.mu0[folds[1]["test"]], b.mu0[folds[1]["test"]], atol=1e-12)
  assert np.abs(a.mu0 - b.mu0)[folds[0]["test"]].max() > 0.1
  np.testing.assert_array_equal(fit(np.where(weight > 0, y, 1e6)).mu1, a.mu1)


def test_one_fold_scores_the_rows_of_the_fit(rows):
  x, t, y = rows
  (fold,) = folds_of(600, 3)[:1]
  paper = [{"train": np.concatenate([fold["train"], fold["test"]]), "val": fold["val"],
            "test": np.arange(600)}]
  found = nuisance.fit(x, t, y, paper, False, settings(), 0)
  assert np.corrcoef(found.mu0, x[:, 1])[0, 1] > 0.7


def test_an_arm_of_one_class_has_its_rate_and_one_without_rows_is_refused(rows):
  x, t, y = rows
  binary = np.where(t == 1, y > 0, 0.0)
  found = nuisance.fit(x, t, binary, folds_of(600, 3), True, settings(nuisances="boosting"), 0)
  assert not found.mu0.any() and ((found.mu1 > 0) & (found.mu1 < 1)).all()
  with pytest.raises(ValueError, match="nobody with treatment 1"):
    nuisance.fit(x, 0 * t, y, folds_of(600, 3), False, settings(), 0)


def effect(x, columns, weight=None, fold=None):
  """The AIPW mean effect, nuisances linear in x."""
  n = len(x)
  folds = folds_of(n, 5)
  found = nuisance.fit(x, columns["T"], columns["Y"], folds, False, settings(nuisances="linear"), 0,
                       weight)
  scores = pseudo.scores(columns["T"], columns["Y"], *found, 0.01)
  return scores.delta, pseudo.mean(scores.delta, np.arange(n), weight)


def products(x):
  """x and the products of any two of its columns that vary."""
  pairs = np.stack([x[:, i] * x[:, j] for i in range(x.shape[1]) for j in range(i)], 1)
  both = np.concatenate([x, pairs], 1)
  return both[:, both.std(0) > 0]


def symptoms(columns):
  return np.stack([columns[name] for name in (*simsum.SYMPTOMS, "self_empl")]
                  + [columns["fever"] == 1, columns["fever"] == 2], 1).astype(float)


def test_the_pattern_as_a_confounder_is_adjusted_for_where_it_is_an_input():
  columns = simsum.draw(10000, 0, "A")
  exact, x = WORLDS["A_pattern_is_a_confounder"], symptoms(columns)
  _, without = effect(products(x), columns)
  _, within = effect(products(np.concatenate([x, columns["note"][:, None]], 1)), columns)
  assert abs(without["value"] - exact["adj(X)"]) < 3 * without["se"]
  assert abs(within["value"] - exact["ATE"]) < 3 * within["se"] < 0.15


def test_values_missing_not_at_random_are_adjusted_for_with_their_indicators():
  columns = simsum.draw(10000, 0, "B")
  exact = WORLDS["B_unconfounded_despite_missingness"]
  x = symptoms(columns)
  r = np.stack([columns[f"R_{name}"] for name in simsum.RECORDED], 1)
  seen = np.concatenate([x[:, :4] * r[:, :4], x[:, 4:5], x[:, 5:] * r[:, 4:]], 1)
  gap = np.where(np.concatenate([r[:, :4], np.ones((len(r), 1)), r[:, [4, 4]]], 1) > 0, x, np.nan)
  design = annotations.fit(gap, tuple("abcdefg"), 0.9)
  _, found = effect(products(annotations.transform(design, gap)), columns)
  assert abs(found["value"] - exact["adj(X*R,R)"]) < 3 * found["se"] < 0.15
  _, filled = effect(products(seen), columns)
  assert abs(filled["value"] - exact["adj(X*R) zero-filled without R"]) < 3 * filled["se"]


def test_who_was_annotated_may_depend_on_treatment_and_outcome():
  """Test 13 of the specification: unweighted is far off, weighted and augmented are right."""
  columns = simsum.draw(10000, 0)
  rng, t, y = np.random.default_rng(1), columns["T"], columns["Y"]
  logit = -1.2 + 0.8 * (y - y.mean()) * (1 - 2 * t) + 0.5 * t
  seen = rng.random(len(t)) < np.clip(1 / (1 + np.exp(-logit)), 0.05, 0.95)
  v = annotations.selection_inputs(np.zeros((len(t), 0)), t, y)
  fold = np.arange(len(t)) % 5
  p = annotations.seen_probability(v, seen, fold, "logistic", 0)
  x = products(symptoms(columns))
  truth = simsum.overlay(columns)
  ate = (truth["mu1"] - truth["mu0"]).mean()
  _, plain = effect(x, columns, seen.astype(float))
  delta, weighted = effect(x, columns, annotations.weights(seen, p))
  both = pseudo.mean(annotations.augmented(delta, seen, p, v, fold), np.arange(len(t)))
  assert plain["value"] < ate - 0.3
  assert abs(weighted["value"] - ate) < 3 * weighted["se"] < 0.15
  assert abs(both["value"] - ate) < 3 * both["se"] < 0.15


def test_a_weight_of_two_is_a_row_twice():
  rng = np.random.default_rng(0)
  x, fold = rng.standard_normal((60, 2)), np.arange(60) % 3
  y, label = rng.standard_normal((60, 1)), rng.integers(0, 2, 60)
  weight = rng.integers(0, 3, 60).astype(float)
  again = np.repeat(np.arange(60), weight.astype(int))
  some = weight > 0
  first = np.unique(again, return_index=True)[1]
  linear = orthogonal.linear(x, y, fold, some, weight)
  twice = orthogonal.linear(x[again], y[again], fold[again])
  # the ridge counts rows, so it differs by a little
  np.testing.assert_allclose(linear[some], twice[first], atol=2e-3)
  np.testing.assert_allclose(
      orthogonal.classes(x, label, fold, 2, weight)[some],
      orthogonal.classes(x[again], label[again], fold[again], 2)[first], atol=2e-3)
