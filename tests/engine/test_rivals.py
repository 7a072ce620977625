"""The rivals: each fit is what its penalty says, a path is its points, patterns become columns."""

import importlib.util

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from crl_jax.engine import rivals


def make(n=400, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, 12)).astype(np.float32)
  y = rng.random(n) < 1 / (1 + np.exp(-(1.5 * x[:, 0] - x[:, 1] - 1)))
  return x, y.astype(np.float32)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("c", [0.01, 1.0])
def test_the_linear_fit_is_the_least_of_its_penalised_loss(ratio, c):
  x, y = make()
  slow = LogisticRegression(C=c, l1_ratio=ratio, solver="saga", max_iter=20_000, tol=1e-8).fit(
      x.astype(float), y)
  predict = rivals.RIVALS["logistic"].at(x, y, dict(ratio=ratio, C=c), 0)
  np.testing.assert_allclose(predict(x), slow.predict_proba(x)[:, 1], atol=1e-3)


def test_the_elastic_net_leaves_out_what_tells_nothing():
  x, y = make()
  predict = rivals.RIVALS["logistic"].at(x, y, dict(ratio=0.9, C=0.03), 0)
  moved = x.copy()
  moved[:, 2:] = 0
  np.testing.assert_array_equal(predict(x), predict(moved))
  moved[:, 0] = 0
  assert np.abs(predict(x) - predict(moved)).max() > 0.1


@pytest.mark.parametrize("name", [name for name, rival in rivals.RIVALS.items() if rival.usual])
def test_a_point_of_a_path_is_the_fit_of_its_settings(name):
  rival = rivals.RIVALS[name]
  if rival.package and importlib.util.find_spec(rival.package) is None:
    pytest.skip(f"{rival.package} is not installed")
  x, y = make()
  for i, (point, predict) in enumerate(rival.path(x, y, rival.tries[-1], 0)):
    if i in (0, 2):
      alone = rival.at(x, y, {**rival.tries[-1], **point}, 0)
      np.testing.assert_allclose(predict(x), alone(x), atol=2e-3)
    if i == 2:
      break
  assert point.keys() == rival.usual.keys()


def test_frequent_patterns_become_columns(monkeypatch):
  monkeypatch.setattr(rivals, "_FREQUENT", 3)
  observed = np.array([[1, 1]] * 5 + [[1, 0]] * 3 + [[0, 0]] * 2, np.float32)
  columns = rivals.patterns(observed)
  new = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], np.float32)
  np.testing.assert_array_equal(columns(new), [[0, 1], [0, 0], [1, 0], [0, 0]])
  monkeypatch.setattr(rivals, "_PATTERNS", 1)
  np.testing.assert_array_equal(rivals.patterns(observed)(new), [[0], [0], [1], [0]])


def test_all_have_as_many_tries_and_what_is_not_installed_is_named(monkeypatch):
  assert {len(rival.tries) for rival in rivals.RIVALS.values()} == {3}
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec",
                      lambda name: None if name == "xgboost" else find("json"))
  here, absent = rivals.available()
  assert absent == ["xgboost"] and here.keys() | {"xgboost"} == rivals.RIVALS.keys()
