"""What makes ShaSpec and DrFuse the methods that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models import disentangle
from crl_jax.models.parts import losses
from tests.small_engine import batch_of, built, gradient, make_data, seen


@pytest.fixture(scope="module")
def data():
  return make_data()


@pytest.fixture(scope="module")
def shaspec(data):
  model, params, _ = built("shaspec", data, drop=1.0)
  return model, params, batch_of(data, np.arange(16))


def test_the_mean_of_what_others_share_stands_for_what_is_missing(shaspec):
  model, params, batch = shaspec
  found = model.apply(params, seen(batch, 1, 0, 1), False, None).named
  mean = found["shared"][:, [0, 2]].mean(1)
  np.testing.assert_allclose(found["filled"][:, 1], mean, atol=1e-6)
  mixed = found["shared"] + jnp.concatenate([found["shared"], found["own"]], -1) @ (
      params["mix"]["kernel"]) + params["mix"]["bias"]
  np.testing.assert_allclose(found["filled"][:, 0], mixed[:, 0], atol=1e-5)


def test_modalities_are_hidden_in_the_second_stage_alone(shaspec):
  model, params, batch = shaspec
  batch = seen(batch, 1, 1, 1)
  assert [stage.mode for stage in model.stages] == ["warm", ""]
  kept = [model.apply(params, batch, train, jax.random.key(0), mode=mode).named["seen"].sum(1)
          for train, mode in ((True, "warm"), (True, ""), (False, ""))]
  assert (kept[0] == 3).all() and (kept[1] < 3).all() and (kept[2] == 3).all()


def test_a_modality_is_told_from_its_own_part_and_pairs_share(shaspec):
  model, params, batch = shaspec
  found = gradient(model, mode="warm", terms=("domain",))(params, seen(batch, 1, 1, 1))
  moves = lambda name: bool(np.abs(found[name]["kernel"]).max() > 0)
  assert moves("own_a") and moves("domain") and not moves("shared") and not moves("mix")
  def shared(*pattern):
    some = seen(batch, *pattern)
    outputs = model.apply(params, some, False, None)
    return model.loss(outputs, some)["shared"][0], outputs.named["shared"]
  one, s = shared(1, 0, 1)
  np.testing.assert_allclose(one.value[:, 0], np.abs(s[:, 0] - s[:, 2]).mean(-1), atol=1e-6)
  assert one.count.sum() == 16 and shared(1, 0, 0)[0].count.sum() == 0


def test_the_union_is_a_logical_or_of_what_is_observed():
  s = jnp.array(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
  p = jax.nn.sigmoid(s)
  found = disentangle.union(s, jnp.array([True, False, True]))
  expected = jnp.log((p[0] + p[2]) / (2 - p[0] - p[2]))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(disentangle.union(s, jnp.array([False, True, False])), s[1], atol=1e-5)
  assert (disentangle.union(s, jnp.zeros(3, bool)) == 0).all()


@pytest.fixture(scope="module")
def drfuse(data):
  model, params, _ = built("drfuse", data)
  return model, params, batch_of(data, np.arange(16))


def test_every_task_attends_to_what_is_there_alone(drfuse):
  model, params, batch = drfuse
  found = model.apply(params, seen(batch, 1, 0, 1), False, None).named["weights"]
  assert found.shape == (16, 2, 4) and (found[..., 1] == 0).all()
  np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-6)
  assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3   # tasks differ
  nothing = model.apply(params, seen(batch, 0, 0, 0), False, None).named["weights"]
  assert (nothing[..., 3] == 1).all()


def test_shared_parts_are_compared_over_observed_pairs(drfuse):
  model, params, batch = drfuse
  a, b = jax.random.normal(jax.random.key(0), (2, 7, 5))
  assert np.abs(disentangle._jsd(a, a)).max() < 1e-6 and (disentangle._jsd(a, b) > 1e-4).all()
  np.testing.assert_allclose(disentangle._jsd(a, b), disentangle._jsd(b, a), atol=1e-6)
  def jsd(*pattern):
    some = seen(batch, *pattern)
    outputs = model.apply(params, some, False, None)
    return model.loss(outputs, some)["jsd"][0], outputs.named["shared"]
  found, s = jsd(1, 0, 1)
  np.testing.assert_allclose(found.value[:, 0], disentangle._jsd(s[:, 0], s[:, 2]), atol=1e-6)
  assert found.count.sum() == 16 and jsd(0, 1, 0)[0].count.sum() == 0


def test_attention_is_drawn_to_the_part_that_costs_less(drfuse):
  _, _, batch = drfuse
  batch = jax.tree.map(lambda x: x[:1], batch).replace(labels=np.array([[1.0, np.nan]], np.float32))
  cost = jnp.array([[[0.9, 0.0], [0.2, 9.0], [0.5, 0.0]]])        # (1, K, T)
  there = jnp.array([[True, True, False]])
  def loss(weights):
    return losses.reduce(disentangle._rank(cost, weights, there, batch))
  wrong, right = jnp.array([[[0.6, 0.3, 0.1]] * 2]), jnp.array([[[0.3, 0.6, 0.1]] * 2])
  assert loss(wrong) == pytest.approx(0.3, abs=1e-6) and loss(right) == 0
  slope = np.asarray(jax.grad(loss)(wrong))[0]
  assert slope[0].tolist() == pytest.approx([1.0, -1.0, 0.0]) and (slope[1] == 0).all()


def test_a_modalitys_two_parts_are_kept_apart(drfuse):
  model, params, batch = drfuse
  outputs = model.apply(params, batch, False, None)
  found = model.loss(outputs, batch)["distinct_b"][0]
  s, u = (np.asarray(outputs.named[name][:, 1]) for name in ("shared", "own"))
  cosine = np.abs((s * u).sum(1)) / np.linalg.norm(s, axis=1) / np.linalg.norm(u, axis=1)
  np.testing.assert_allclose(found.value[:, 0], cosine, atol=1e-5)
  np.testing.assert_array_equal(found.count[:, 0], batch.observed[:, 1])
