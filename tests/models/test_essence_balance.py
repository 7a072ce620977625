"""What makes InfoReg and AUG the methods that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models.parts import losses
from crl_jax.models.record import Outputs
from tests.small_engine import batch_of, built, make_data, same


@pytest.fixture(scope="module")
def inforeg():
  data = make_data()
  model, params, _ = built("inforeg", data)
  gradients = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
  return model, params, gradients, data


SCORES = jnp.array([3.0, 1.0, 2.0])   # the first modality leads by 1.5


def test_the_leaders_encoder_is_held_near_the_epochs_start_and_no_other(inforeg):
  model, params, gradients, _ = inforeg
  carry = model.hooks.start(params)
  assert same(model.hooks.adjust(gradients, params, carry, SCORES, "")[0], gradients)
  moved = jax.tree.map(lambda x: x + 0.1, params)
  found, _ = model.hooks.adjust(gradients, moved, carry, SCORES, "")
  beta = 0.95 * np.exp(np.tanh(1.5))
  for name, tree in found.items():
    if name == "encode_a":
      jax.tree.map(lambda a, g: np.testing.assert_allclose(a - g, 0.1 * beta, rtol=1e-4), tree,
                   gradients[name])
    else:
      assert same(tree, gradients[name])
  # from the next epoch on it is held near that one's start
  _, carry = model.hooks.close(moved, carry)
  assert same(carry["start"]["encode_a"], moved["encode_a"]) and carry["epoch"] == 1


def test_the_window_closes_when_the_first_modality_gains_little(inforeg):
  """Its trace is that of its weight matrices' gradients, as they were followed."""
  model, params, gradients, _ = inforeg
  moved = jax.tree.map(lambda x: x + 0.1, params)
  carry = model.hooks.start(params)
  held = lambda carry: not same(model.hooks.adjust(gradients, moved, carry, SCORES, "")[0],
                                gradients)
  later = lambda *traces: carry | dict(epoch=jnp.int32(20), traces=jnp.array(traces))
  assert held(carry) and held(later(*[1.0] * 5, *[4.0] * 6))
  assert not held(later(*[1.0] * 11)) and not held(later(*[1.0] * 10, 1.4))
  assert held(later(*[1.0] * 10, 1.6))   # more than 5% of the sum
  changed, after = model.hooks.adjust(gradients, moved, carry, SCORES, "")
  squares = [float(jnp.square(g).mean()) for path, g in jax.tree_util.tree_leaves_with_path(
      changed["encode_a"]) if path[-1].key == "kernel"]
  assert len(squares) == 3 and after["trace"] == pytest.approx(sum(squares), rel=1e-5)
  _, closed = model.hooks.close(params, after)
  assert closed["traces"][-1] == after["trace"] and closed["trace"] == 0


def test_the_leader_is_the_modality_that_is_right_not_the_frequent_one(inforeg):
  model, *_, data = inforeg
  batch = batch_of(data, np.arange(8))
  observed = np.ones((8, 3), bool)
  observed[2:, 1] = False   # b is rare
  batch = batch.replace(observed=observed, labels=np.ones((8, 2), np.float32))
  parts = np.zeros((8, 3, 2), np.float32)
  parts[:, 1] = 3.0         # and right
  parts[2:, 1] = -50.0      # what it says where it is not there counts in nothing
  outputs = Outputs(None, None, dict(parts=jnp.array(parts)))
  score = np.asarray(model.hooks.see(outputs, batch, lambda x: x))
  np.testing.assert_allclose(score, 8 * np.array([0.5, 1 / (1 + np.exp(-3.0)), 0.5]), rtol=1e-5)
  padded = batch.replace(valid=np.arange(8) < 4)
  np.testing.assert_allclose(model.hooks.see(outputs, padded, lambda x: x), score / 2, rtol=1e-5)


def test_the_modalities_answers_are_the_parts_of_the_joint_one(inforeg):
  model, params, _, data = inforeg
  params = params | {"bias": params["bias"] + 0.7}
  batch = batch_of(data, np.arange(8)).replace(observed=np.ones((8, 3), bool))
  found = model.apply(params, batch, False, None)
  np.testing.assert_allclose(found.named["parts"].sum(1), found.logits, atol=1e-5)


@pytest.fixture(scope="module")
def aug():
  """The model, its parameters, rows that have all, and (params, batch) -> Outputs."""
  data = make_data()
  model, params, _ = built("aug", data, most=3, every=2)
  batch = batch_of(data, np.arange(8)).replace(observed=np.ones((8, 3), bool))
  return model, params, batch, jax.jit(lambda p, batch: model.apply(p, batch, False, None))


def with_layers(params, *counts):
  return params | {"layers": np.array(counts, np.float32)}


def test_an_answer_is_the_sum_of_the_first_layers_of_its_modality(aug):
  _, params, batch, ask = aug
  found = ask(with_layers(params, 0, 1, 3), batch).named
  np.testing.assert_allclose(found["own"], found["before"] + found["last"], atol=1e-6)
  assert (found["last"][:, 0] == 0).all() and (found["last"][:, 1:] != 0).all()
  assert found["grown"].tolist() == [[False, True, True]] * 8
  # one layer more: what there was is before, and one that is not there yet says nothing
  more, most = (ask(with_layers(params, *n), batch).named for n in ((1, 2, 3), (2, 3, 3)))
  np.testing.assert_allclose(more["before"][:, :2], found["own"][:, :2], atol=1e-6)
  np.testing.assert_allclose(most["before"][:, :2], more["own"][:, :2], atol=1e-6)
  np.testing.assert_array_equal(more["own"][:, 2], found["own"][:, 2])
  other = params | {f"boost_{m}": jax.tree.map(lambda x: x.at[1:].add(1.0), jax.tree.map(
      jnp.array, params[f"boost_{m}"])) for m in "abc"}
  moved = ask(with_layers(other, 0, 1, 3), batch).named["own"]
  np.testing.assert_array_equal(moved[:, :2], found["own"][:, :2])
  assert np.abs(moved[:, 2] - found["own"][:, 2]).min() > 1e-3


def test_together_they_say_the_mean_of_those_that_are_there(aug):
  _, params, batch, ask = aug
  found = ask(params, batch)
  np.testing.assert_allclose(found.logits, found.named["own"].mean(1), atol=1e-6)
  two = ask(params, batch.replace(observed=np.tile([True, False, True], (8, 1))))
  np.testing.assert_allclose(two.logits, found.named["own"][:, [0, 2]].mean(1), atol=1e-6)


def test_the_last_layer_learns_what_those_before_do_not_say(aug):
  """And what is before goes on learning; before anything was added there is one answer."""
  model, params, batch, ask = aug
  batch = batch.replace(labels=np.tile(np.float32([1, 0]), (8, 1)),
                        observed=batch.observed & (np.arange(8) < 6)[:, None])
  outputs = ask(with_layers(params, 0, 2, 2), batch)
  terms, cost = model.loss(outputs, batch), {}
  for name in ("own", "before", "last"):
    given = outputs.replace(named=outputs.named | dict(
        own=outputs.named[name], grown=np.zeros((8, 3), bool)))
    cost[name] = np.asarray(model.loss(given, batch)["own_b"][0].value)
  p = np.asarray(model.probability(outputs.named["before"][:, 1]))
  said = np.where([True, False], p, 1 - p)
  there = np.arange(8) < 6
  expected = cost["own"] + cost["before"] + (1 - 0.5 * said) * cost["last"]
  np.testing.assert_allclose(terms["own_b"][0].value[:6], expected[:6], rtol=1e-5)
  for term, _ in terms.values():   # of rows that have the modality
    np.testing.assert_array_equal(term.count, np.repeat(there[:, None], 2, 1))
  free = outputs.replace(named=outputs.named | dict(grown=np.zeros((8, 3), bool)))
  np.testing.assert_array_equal(terms["own_a"][0].value, model.loss(free, batch)["own_a"][0].value)


def test_the_classifier_of_the_weakest_modality_grows_and_no_other(aug):
  model, params, batch, ask = aug
  hooks, params = model.hooks, with_layers(params, 0, 0, 0)
  batch = batch.replace(observed=np.tile([True, True, False], (8, 1)),
                        labels=np.ones((8, 2), np.float32), valid=np.arange(8) < 6)
  def scored(*logits):   # of a, b; nobody has c
    own = np.tile(np.float32([*logits, -9.0])[:, None], (8, 1, 2))
    own[6:] = -9.0       # padding
    seen = hooks.see(Outputs(None, None, dict(own=own)), batch, lambda x: x)
    return hooks.adjust({}, {}, hooks.start(params), seen, "")[1]
  carry = scored(2.0, 1.0)
  np.testing.assert_allclose(carry["right"] / np.maximum(carry["count"], 1), [
      *model.probability(jnp.array([[2.0], [1.0]]))[:, 0], 0], atol=1e-5)
  assert carry["count"].tolist() == [12, 12, 0]
  grown = lambda carry: hooks.close(params, carry)[0]["layers"].tolist()
  assert grown(carry) == [0, 1, 0] and grown(scored(1.0, 2.0)) == [1, 0, 0]
  assert grown(scored(1.0, 1.001)) == [0, 0, 0]   # within the margin
  later = lambda epoch: carry | dict(epoch=jnp.int32(epoch))
  assert [grown(later(epoch)) for epoch in (1, 2, 3)] == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
  full = hooks.close(with_layers(params, 0, 3, 0), carry)[0]["layers"]
  assert full.tolist() == [0, 3, 0]
  after = hooks.close(params, carry)[1]
  assert after["epoch"] == 1 and not after["right"].any() and not after["count"].any()


def test_a_layer_that_was_added_is_trained_and_none_before_it_is_there(aug):
  """Whose gradient is zero, so that no optimizer moves it, and no weight decay."""
  model, params, batch, _ = aug
  (terms, trains), *_ = model.stages[0].turns
  params = with_layers(params, 1, 1, 1)
  @jax.jit
  @jax.grad
  def follow(some):
    found = model.loss(model.apply(params | some, batch, False, None), batch)
    return sum(losses.reduce(*found[term]) for term in terms)
  found = follow({name: params[name] for name in ("first_a", "boost_a", "boost_b")})
  assert set(found["boost_a"]) == {"weights", "bias"}   # what is named kernel decays
  for name, g in found["boost_a"].items():
    assert np.any(g[0]) and not np.any(g[1:]) and not np.any(found["boost_b"][name])
  assert np.any(found["first_a"]["kernel"]) and {path[0] for path in trains} == {
      "encode_a", "first_a", "boost_a", "classify"}
