"""Annotations that are missing not at random: what their estimators see."""

import numpy as np
import pytest

from crl_jax.data.cohort import CohortError
from crl_jax.policy import annotations

X = np.array([[1.0, np.nan, 5], [3, 2, 5], [5, 4, 5], [np.nan, 6, 5]])


def test_gaps_are_zeros_after_scaling_with_an_indicator_and_constants_are_dropped():
  design = annotations.fit(X, ("a", "b", "c"), 0.9)
  assert design.dropped == ("c",)
  z = annotations.transform(design, X)
  s = np.std([1, 3, 5])
  np.testing.assert_allclose(z[:, 0], np.array([-2, 0, 2, 0]) / s)
  np.testing.assert_allclose(z[:, 1], np.array([0, -2, 0, 2]) / s)
  np.testing.assert_array_equal(z[:, 2:], [[1, 0], [1, 1], [1, 1], [0, 1]])
  assert annotations.fit(X, ("a", "b", "c"), 0.2).dropped == ("a", "b", "c")


def test_which_rows_can_be_used():
  annotated = np.array([True, True, False, True])
  assert annotations.usable(X, annotated, "indicators").tolist() == [True, True, False, True]
  assert annotations.usable(X, annotated, "complete").tolist() == [False, True, False, False]
  with pytest.raises(CohortError, match="2 annotated rows lack a value"):
    annotations.usable(X, annotated, "refuse")


def test_rare_patterns_share_a_column_with_those_never_seen():
  pattern = np.repeat([1, 3, 5], [40, 35, 4])
  patterns = annotations.fit_patterns(pattern)
  columns = annotations.pattern_columns(patterns, np.array([3, 5, 9, 1]))
  assert columns.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]]
  alone = annotations.fit_patterns(np.full(50, 3))
  assert annotations.pattern_columns(alone, pattern).shape == (79, 0)


def test_the_kinds_of_inputs():
  x, phi, pattern = np.ones((2, 3)), np.zeros((2, 4)), np.full((2, 2), 7)
  shapes = {kind: annotations.inputs(kind, x, phi, pattern).shape[1]
            for kind in ("x", "x+pattern", "x+phi", "phi")}
  assert shapes == {"x": 3, "x+pattern": 5, "x+phi": 7, "phi": 4}


@pytest.mark.parametrize("method", ["logistic", "boosting"])
def test_the_mean_of_all_is_found_though_the_annotated_are_not_as_all(method):
  """S depends on what is known of every row; Delta does too."""
  rng = np.random.default_rng(0)
  n = 4000
  v = rng.standard_normal((n, 2))
  delta = v[:, 0] + rng.standard_normal(n)
  seen = rng.random(n) < 1 / (1 + np.exp(0.5 - 1.5 * v[:, 0]))
  fold = np.arange(n) % 5
  p = annotations.seen_probability(v, seen, fold, method, 0)
  assert (p >= annotations.LEAST).all() and (p <= 1).all()
  assert delta[seen].mean() > 0.4
  w = annotations.weights(seen, p)
  assert not w[~seen].any()
  weighted = np.sum(w * np.where(seen, delta, 0)) / w.sum()
  hidden = np.where(seen, delta, np.nan)
  both = annotations.augmented(hidden, seen, p, v, fold)
  se = np.sqrt(2 / n)
  assert abs(weighted) < (4 if method == "logistic" else 8) * se   # trees are shrunk
  assert abs(both.mean()) < 4 * se
  assert both.std() < (w * np.where(seen, delta, 0)).std()
  assert annotations.seen_probability(v, seen | True, fold, method, 0).tolist() == [1] * n


def test_what_selects_may_depend_on_outcomes_of_each_arm():
  t, y = np.array([0.0, 1, 1]), np.array([1.0, 2, 6])
  v = annotations.selection_inputs(np.zeros((3, 2)), t, y)
  z = (y - 3) / y.std()
  np.testing.assert_allclose(v[:, 2:], np.stack([t, z, t * z], 1))
