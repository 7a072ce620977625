"""What makes each concatenation the method that it is; each test fails where that line is gone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models.parts import patterns
from tests.small_engine import ask, batch_of, built, gradient, make_data, seen


@pytest.fixture(scope="module")
def data():
  return make_data()


def test_late_fusion_is_additive(data):
  """What a adds does not depend on b."""
  model, params, _ = built("late_fusion", data)
  batch = batch_of(data, np.arange(8))
  other = batch.replace(inputs=batch.inputs | {"b": batch.inputs["b"][::-1]})
  adds = lambda batch: (ask(model, params, seen(batch, 1, 1, 0)) -
                        ask(model, params, seen(batch, 0, 1, 0)))
  np.testing.assert_allclose(adds(batch), adds(other), atol=1e-5)
  assert np.abs(ask(model, params, seen(batch, 1, 1, 0)) -
                ask(model, params, seen(other, 1, 1, 0))).max() > 1e-3


def test_late_fusion_may_average_what_each_says(data):
  model, params, _ = built("late_fusion", data, average=True)
  batch = batch_of(data, np.arange(8))
  alone = [ask(model, params, seen(batch, *line)) for line in np.eye(3)]
  np.testing.assert_allclose(ask(model, params, seen(batch, 1, 0, 1)), (alone[0] + alone[2]) / 2,
                             atol=1e-5)


@pytest.mark.parametrize("name, settings", [("late_fusion", dict(fill="absent")), ("joint", {}),
                                            ("early", {})])
def test_a_learned_vector_stands_for_what_is_missing_and_only_then(data, name, settings):
  model, params, _ = built(name, data, **settings)
  batch = batch_of(data, np.arange(8))
  found = gradient(model)(params, seen(batch, 1, 0, 1))["absent"]
  assert [bool(np.abs(g).max() > 0) for g in found] == [False, True, False]
  moved = params | {"absent": params["absent"] + 1.0}
  assert (ask(model, moved, seen(batch, 1, 1, 1)) == ask(model, params, seen(batch, 1, 1, 1))).all()
  assert (ask(model, moved, seen(batch, 1, 0, 1)) != ask(model, params, seen(batch, 1, 0, 1))).any()


def test_joint_trains_the_encoders_that_early_has_frozen(data):
  """And says what early says with the same parameters."""
  early, params, _ = built("early", data)
  joint, _, _ = built("joint", data)
  batch = batch_of(data, np.arange(8))
  own = {name: x for name, x in params.items() if not name.startswith("alone_")}
  np.testing.assert_array_equal(ask(joint, own, batch), ask(early, params, batch))
  encoded = {f"encode_{m}" for m in data["inputs"]}
  moved = gradient(joint)(own, seen(batch, 1, 1, 1))
  assert all(np.abs(g).max() > 0 for name in encoded for g in jax.tree.leaves(moved[name]))
  alone, together = early.stages
  assert {path[0] for path in together.trains} == set(own) - encoded and not joint.stages[0].trains
  assert {path[0] for path in alone.trains} == set(params) - set(own) | encoded
  alone = gradient(early, mode=alone.mode)(params, seen(batch, 1, 1, 0))
  assert [bool(jnp.abs(alone[f"alone_{m}"]["kernel"]).max() > 0) for m in data["inputs"]] == [
      True, True, False]


def test_early_may_see_complete_rows_alone_in_its_second_stage(data):
  stages = built("early", data, paired=True)[0].stages
  observed = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]], bool)
  assert stages[0].rows is None
  assert stages[1].rows(observed, None, None).tolist() == [True, False, False]


# Patterns of 100 training rows: bc 60, abc 25, b 10, ac 5 (rare).
OBSERVED = np.repeat(np.array([[0, 1, 1], [1, 1, 1], [0, 1, 0], [1, 0, 1]], bool),
                     [60, 25, 10, 5], axis=0)


def test_the_table_of_patterns():
  found = patterns.table(OBSERVED, most=4, least=10)
  assert found.astype(int).tolist() == [[0, 1, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]
  assert patterns.table(OBSERVED, most=1, least=10).tolist() == [[False, True, True]]


@pytest.fixture(scope="module")
def unified(data):
  model, params, _ = built("unified", data)
  kept = model.prepare(OBSERVED, None)
  # singletons a, b, c; bc, abc; the empty one
  assert kept["patterns"][:6].astype(int).tolist() == [
      [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]]
  assert (kept["share"][6:] == -1).all() and len(kept["share"]) == 35
  return model, params, kept, gradient(model, kept)


@pytest.mark.parametrize("pattern, teaches", [
    ((0, 1, 1), {1, 2, 3}), ((1, 1, 1), {0, 1, 2, 4}), ((1, 0, 1), {0, 2}), ((0, 0, 1), {2}),
    ((0, 0, 0), {5})])
def test_unified_rows_teach_their_own_pattern_and_each_of_their_modalities(data, unified, pattern,
                                                                           teaches):
  _, params, kept, moves = unified
  found = moves(params, seen(batch_of(data, np.arange(8)), *pattern))
  assert set(np.flatnonzero(np.abs(found["bias"]).max(1))) == teaches
  moved_PxM = np.abs(found["kernel"]).max((2, 3)) > 0
  expected_PxM = kept["patterns"] & np.isin(np.arange(35), list(teaches))[:, None]
  np.testing.assert_array_equal(moved_PxM, expected_PxM)


@pytest.mark.parametrize("pattern, head", [
    ((1, 1, 1), 4), ((0, 1, 1), 3),   # a modality less: another head
    ((1, 0, 1), 2),                   # never seen often enough: of a (30 rows) and c (90) alone, c
    ((1, 1, 0), 1), ((0, 0, 1), 2), ((0, 0, 0), 5)])
def test_unified_answers_by_the_largest_pattern_inside(data, unified, pattern, head):
  model, params, kept, _ = unified
  batch = seen(batch_of(data, np.arange(8)), *pattern)
  whole = ask(model, params, batch, kept)
  only = lambda keep: jax.tree.map(lambda x: x * (np.arange(35) == keep).reshape(
      -1, *[1] * (x.ndim - 1)), {k: params[k] + 0.1 for k in ("kernel", "bias")})
  own, none = (ask(model, params | only(keep), batch, kept) for keep in (head, 34))
  full = ask(model, params | {k: params[k] + 0.1 for k in ("kernel", "bias")}, batch, kept)
  np.testing.assert_allclose(own, full, atol=1e-6)
  assert (none == 0).all() and np.isfinite(whole).all()
  if pattern == (1, 0, 1):   # the fallback's prediction
    np.testing.assert_allclose(whole, ask(model, params, seen(batch, 0, 0, 1), kept), atol=1e-6)


def test_unified_may_teach_all_subsets_of_few_modalities(data):
  model, params, _ = built("unified", data, subsets="all")
  kept = model.prepare(OBSERVED, None)
  found = gradient(model, kept)(params, seen(batch_of(data, np.arange(8)), 1, 0, 1))
  taught = kept["patterns"][np.flatnonzero(np.abs(found["bias"]).max(1))]
  assert sorted(taught.astype(int).tolist()) == [[0, 0, 1], [1, 0, 0], [1, 0, 1]]
  four = data | {"inputs": data["inputs"] | {"d": data["inputs"]["a"]}}
  with pytest.raises(ValueError, match="up to three modalities; there are 4"):
    built("unified", four, subsets="all")
