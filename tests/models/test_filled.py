"""The comparators: what is unobserved is filled, and only the one with the mask can tell."""

import jax
import numpy as np
import pytest

from crl_jax import config as config_lib, models
from crl_jax.models.parts import losses


@pytest.fixture(params=["zero_fill", "mean_fill"])
def built(request, small_config, spec):
  model = models.build(config_lib.override(small_config, [f"model.name={request.param}"]), spec)
  return request.param, model, jax.jit(model.init)(jax.random.key(0))


def test_unobserved_content_changes_nothing(built, spec, batch):
  _, model, params = built
  hidden = {m: np.where(batch.observed[:, i].reshape(-1, *[1] * (x.ndim - 1)), x, np.nan)
            .astype(np.float32) for i, (m, x) in enumerate(batch.inputs.items())}
  a, b = (model.apply(params, x, False, None) for x in (batch, batch.replace(inputs=hidden)))
  np.testing.assert_array_equal(a.logits, b.logits)
  assert np.isfinite(a.logits).all() and a.logits.shape == (16, 2)


def test_only_the_mask_tells_a_missing_modality_from_a_filled_one(built, spec, batch):
  name, model, params = built
  zeros = batch.replace(inputs={m: np.zeros_like(x) for m, x in batch.inputs.items()})
  present = zeros.replace(observed=np.ones_like(batch.observed))
  gap = np.abs(model.apply(params, zeros, False, None).logits -
               model.apply(params, present, False, None).logits)
  missing = ~batch.observed.all(1)
  assert (gap[~missing] == 0).all()
  assert (gap[missing] > 0).all() if name == "zero_fill" else (gap == 0).all()


def test_it_learns_from_outcomes_alone_and_all_of_it_learns(built, batch):
  _, model, params = built
  assert [stage.name for stage in model.stages] == ["joint"]

  def total(params):
    terms = model.loss(model.apply(params, batch, True, jax.random.key(1)), batch)
    assert set(terms) == {"prediction"}
    return sum(losses.reduce(term, columns) for term, columns in terms.values())
  value, gradient = jax.jit(jax.value_and_grad(total))(params)
  assert np.isfinite(value)
  for path, g in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(g).all(), path
  moved = sum(bool(np.abs(g).max() > 0) for g in jax.tree.leaves(gradient))
  assert moved > 0.9 * len(jax.tree.leaves(gradient))
