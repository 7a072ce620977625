"""The yardsticks that a run keeps: scikit-learn's own numbers, from arrays in a file, by NumPy and
inside a program."""

import jax
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from crl_jax import config as config_lib
from crl_jax.data import preprocess
from crl_jax.data.cohort import Cohort
from crl_jax.engine import kept, trees, yardsticks


def grown(n=600, seed=0, **settings):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, 8)).astype(np.float32)
  x[:, 6:] = rng.integers(0, 3, (n, 2))   # thresholds between few values
  y = rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0] * np.sign(x[:, 1]) - x[:, 6]))
  return HistGradientBoostingClassifier(early_stopping=False, max_bins=32, **settings).fit(x, y), x


@pytest.mark.parametrize("settings", [dict(max_iter=30, max_leaf_nodes=8), dict(max_iter=3),
                                      dict(max_iter=5, max_leaf_nodes=2)])
def test_trees_are_scikit_learns_to_the_last_digits(settings):
  model, x = grown(**settings)
  found = trees.of(model)
  new = np.concatenate([x, np.random.default_rng(1).normal(0, 3, (500, 8)).astype(np.float32)])
  for rows in (new, new.astype(np.float64)):
    odds = trees.log_odds(found, rows, int(found["depth"]))
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), model.predict_proba(rows)[:, 1], rtol=0,
                               atol=1e-12)


def test_in_a_program_every_row_takes_the_same_way():
  """Inputs that lie on thresholds, which are no float32."""
  model, x = grown(max_iter=20)
  found = trees.of(model)
  narrow = trees.narrow(found)
  assert narrow["threshold"].dtype == np.float32
  inner = np.isfinite(found["threshold"])
  assert (narrow["threshold"] <= found["threshold"]).all()
  near = np.tile(narrow["threshold"][inner][:, None], (1, 8))
  near = np.concatenate([near, np.nextafter(near, np.float32(np.inf))])
  for rows in (x, near):
    wide = trees.log_odds(found, rows, int(found["depth"]))
    odds = jax.jit(lambda t, x: trees.log_odds(t, x, int(found["depth"]), jax.numpy))(narrow, rows)
    np.testing.assert_allclose(odds, wide, atol=1e-5)


def cohort(rows=240):
  """Vectors with gaps, a set, a text, a series and an image; a task of one class beside one that
  can be learned."""
  rng = np.random.default_rng(0)
  inputs = {"a": rng.normal(size=(rows, 3)).astype(np.float32),
            "b": rng.normal(size=(rows, 2, 3)).astype(np.float32),
            "c": rng.integers(0, 900, (rows, 2, 4)).astype(np.int32),
            "d": rng.normal(size=(rows, 5, 3)).astype(np.float32),
            "e": rng.integers(0, 256, (rows, 10, 9, 1)).astype(np.uint8)}
  inputs["a"][rng.random((rows, 3)) < 0.2] = np.nan
  inputs["b"][::3, 1] = np.nan   # padding
  inputs["d"][..., 0] = np.sort(rng.uniform(0, 24, (rows, 5)), 1)
  inputs["d"][..., 1:][rng.random((rows, 5, 2)) < 0.3] = np.nan
  inputs["d"][::4, 3:] = np.nan   # two steps fewer
  observed = rng.random((rows, 5)) < 0.8
  for m, x in enumerate(inputs.values()):
    x[~observed[:, m]] = 0
  y = rng.random(rows) < 1 / (1 + np.exp(-2 * np.nan_to_num(inputs["a"][:, 0])))
  labels = np.stack([y, np.zeros(rows)], 1).astype(np.float32)
  index = np.arange(rows)
  return Cohort(tuple(inputs), ("y", "z"), inputs, observed, labels, index, index, {},
                {"a": ["1", "2", "3"], "b": ["1", "2", "3"], "c": ["1", "2", "3", "4"],
                 "d": ["hours", "1", "2"], "e": ["grey"]},
                kinds={"b": "set", "c": "text", "d": "series", "e": "image"})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
  """(cohort, its test rows, what the yardsticks predict for them by fold, the folds as loaded)."""
  whole, settings = cohort(), config_lib.default().preprocess
  found, folds = [], []
  for start in (0, 40):
    rows = dict(train=np.arange(start, start + 150), val=np.arange(200, 205),
                test=np.arange(200, 240))
    stats = preprocess.fit(rows=rows["train"], **preprocess.of_cohort(whole, settings))
    found.append(yardsticks.of_cohort(
        whole, stats, rows, settings, 0,
        lambda stats, models: folds.append(kept.of_fold(stats, models)))[0]["test"])
  path = tmp_path_factory.mktemp("kept") / "yardsticks.npz"
  kept.save(path, folds)
  with np.load(path, allow_pickle=False) as file:
    assert not [name for name in file if name.endswith(("/low", "/high"))]
  return whole, rows["test"], found, kept.load(path)


def test_a_file_gives_the_mean_of_the_folds(fitted):
  whole, rows, found, folds = fitted
  some = whole.take(rows)
  again = kept.predict(folds, some.inputs, some.observed, some.modalities, some.kinds)
  for name in kept.PARTS:
    assert again[name].shape == (40, 2) and (again[name][:, 1] == 0).all()
    np.testing.assert_allclose(again[name], np.mean([p[name] for p in found], 0), rtol=0,
                               atol=1e-7 if name == "logistic" else 1e-12)


def test_a_program_gives_the_same_for_every_kind_of_input(fitted):
  whole, rows, _, folds = fitted
  some = whole.take(rows)
  expected = kept.predict(folds, some.inputs, some.observed, some.modalities, some.kinds)
  arrays, predict = kept.on_device(folds, some.modalities, some.kinds)
  found = jax.jit(predict)(arrays, some.inputs, some.observed)
  for name in kept.PARTS:
    np.testing.assert_allclose(found[name], expected[name], atol=2e-6)
  assert kept._FLAT.keys() == yardsticks._FLAT.keys()   # a new kind needs its place in a program


def test_without_a_part_nothing_is_kept(fitted):
  assert kept.of_fold({}, {"logistic": [0.5]}) is None
