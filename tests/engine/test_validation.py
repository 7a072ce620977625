"""What early stopping looks at, against scikit-learn; and a training that it stops and selects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from crl_jax.engine import validation
from tests.small_engine import ROWS, Engine, make_data, make_engine


@pytest.fixture(scope="module")
def scored():
  """score(probabilities, labels, monitor), compiled."""
  return jax.jit(validation.score, static_argnums=2)


@pytest.fixture
def rows():
  """(V, T) probabilities and labels. Of the tasks the first has all labels and no tie, others ties
  and unknown labels, the last two one class and none; the last rows are padding."""
  rng = np.random.default_rng(0)
  p = rng.random((60, 5)).astype(np.float32)
  labels = (rng.random(p.shape) < p).astype(np.float32)
  p[:, 1:] = p[:, 1:].round(1)             # 0 and 1 among them
  labels[rng.random(60) < 0.3, 2] = np.nan
  labels[:, 3] = np.where(labels[:, 3] == 1, 1, np.nan)
  labels[:, 4] = labels[50:] = np.nan
  return p, labels


def test_areas_and_losses_are_those_of_scikit_learn(scored, rows):
  p, labels = rows
  scalars, score = scored(*rows, "auroc")
  known = [~np.isnan(y) for y in labels.T]
  areas = [roc_auc_score(labels[k, t], p[k, t]) for t, k in enumerate(known[:3])]
  assert len(np.unique(p[known[2], 2])) < known[2].sum() < known[1].sum()
  np.testing.assert_allclose(scalars["auroc"], [*areas, np.nan, np.nan], rtol=1e-6)
  assert score == pytest.approx(np.mean(areas), rel=1e-6)
  scalars, score = scored(*rows, "loss")
  losses = [log_loss(labels[k, t], np.clip(p[k, t].astype(float), 1e-7, 1 - 1e-7), labels=[0, 1])
            for t, k in enumerate(known[:4])]
  assert scalars["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
  assert score == -scalars["loss"]


def test_equal_predictions_rank_nothing_and_unknown_rows_count_nowhere(scored, rows):
  p, labels = rows
  scalars, score = scored(np.full_like(p, 0.3), labels, "auroc")
  np.testing.assert_array_equal(scalars["auroc"], [0.5, 0.5, 0.5, np.nan, np.nan])
  for value in (0.0, 1.0, np.nan):
    other = np.where(np.isnan(labels), np.float32(value), p)
    for monitor in ("auroc", "loss"):
      for a, b in zip(jax.tree.leaves(scored(other, labels, monitor)),
                      jax.tree.leaves(scored(p, labels, monitor))):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_score_is_the_worst_score(scored, rows):
  p, labels = rows
  one_class = np.where(labels == 1, labels, np.nan)
  assert scored(p, one_class, "auroc")[1] == -np.inf
  assert np.isfinite(scored(p, one_class, "loss")[1])
  for monitor in ("auroc", "loss"):
    assert scored(p, np.full_like(labels, np.nan), monitor)[1] == -np.inf


def test_the_area_stops_a_training_and_selects_its_parameters():
  data = make_data()
  engine = Engine(make_engine(data).config, data, **{
      "model.name": "mean_fill", "train.monitor": "auroc", "train.pretrain.epochs": 0,
      "train.joint.epochs": 30, "train.joint.learning_rate": 1e-3})   # the smallest to compile
  params, records = engine.fit()
  areas = [np.nanmean([scalars["val/auroc_readmission"], scalars["val/auroc_mortality"]])
           for *_, scalars in records]
  losses = [scalars["val/loss"] for *_, scalars in records]
  best, patience = int(np.argmax(areas)), engine.config.train.joint.patience
  assert len(areas) == best + 1 + patience < 30
  assert best < np.argmin(losses)           # the loss would have gone on
  p = engine.programs.predict(
      engine.programs.by_member(params), engine.programs.by_member(np.zeros(1, np.int32)),
      ROWS[1][None].astype(np.int32), engine.data)[0]
  _, score = validation.score(jnp.asarray(p), jnp.asarray(data["labels"][ROWS[1]]), "auroc")
  assert score == pytest.approx(areas[best], rel=1e-5)
