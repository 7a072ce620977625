"""What makes the late-fusing transformer the method that it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_engine import batch_of, built, make_data, seen


@pytest.fixture(scope="module")
def mt():
  data = make_data()
  model, params, _ = built("mt", data)
  told = jax.jit(lambda params, batch: model.apply(params, batch, False, None))
  return model, params, batch_of(data, np.arange(8)), told


def test_modalities_meet_in_the_last_layers_alone(mt):
  _, params, batch, told = mt
  other = batch.replace(inputs=batch.inputs | {"a": batch.inputs["a"] + 1.0})
  shut = params | {"across_0": params["across_0"] | {"Attention_0": params["across_0"][
      "Attention_0"] | {"output": jax.tree.map(jnp.zeros_like, params["across_0"]["Attention_0"]
                                               ["output"])}}}
  def moved(params):
    summary = [np.asarray(told(params, seen(x, 1, 1, 1)).named["summary"])
               for x in (batch, other)]
    return np.abs(summary[0] - summary[1]).max((0, 2))
  assert (moved(params) > 1e-4).all()
  a, b, c = moved(shut)
  assert a > 1e-4 and b == c == 0


def test_what_a_modality_says_alone_is_what_a_row_of_it_alone_would_say(mt):
  model, params, batch, told = mt
  run = jax.jit(functools.partial(model.apply, train=True, rng=jax.random.key(2),
                                  vary=dict(dropout=jnp.float32(0))))
  single = run(params, seen(batch, 1, 1, 0)).named["single"]
  for m, line in enumerate(np.eye(3)[:2]):
    np.testing.assert_allclose(single[:, m], told(params, seen(batch, *line)).logits, atol=1e-5)
  terms = model.loss(run(params, seen(batch, 1, 1, 0)), seen(batch, 1, 1, 0))
  known = ~np.isnan(batch.labels)
  np.testing.assert_array_equal(terms["single_a"][0].count, known)
  assert (terms["single_c"][0].count == 0).all()
  assert model.stages[0].weights["single_a"] == pytest.approx(1 / 3)
