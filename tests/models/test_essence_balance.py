"""What makes InfoReg the method that it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
