"""From the representation to the tasks: which heads there are, which rows their losses count."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crl_jax.config import task_losses
from crl_jax.models.parts import heads, losses

TASKS = ("readmission", "mortality")


class Alone(nn.Module):
  """The heads without a model."""

  @nn.compact
  def __call__(self, h):
    return heads.logits(h, TASKS, ("mortality",), None)


def test_a_head_a_task_by_its_name_the_deeper_ones_with_a_layer_more():
  module, h = Alone(), jnp.arange(4.0)
  params = module.init(jax.random.key(0), h)["params"]
  assert {name: sorted(head) for name, head in params.items()} == {
      "head_readmission": ["Dense_0", "Dense_1"],
      "head_mortality": ["Dense_0", "Dense_1", "Dense_2"]}
  assert params["head_mortality"]["Dense_0"]["kernel"].shape == (4, 4)
  only = {**jax.tree.map(jnp.zeros_like, params), "head_mortality": params["head_mortality"]}
  none, some = module.apply({"params": only}, h)
  assert none == 0 and some != 0   # in the order of the tasks


def test_padding_and_undefined_outcomes_cost_nothing(small_config, batch):
  loss, probability = heads.prediction(small_config, TASKS)
  padded = batch.replace(valid=np.arange(16) < 9)
  logits = jax.random.normal(jax.random.key(1), (16, 2))
  term, weight = loss(logits, padded)
  known = ~np.isnan(batch.labels[:9])
  assert term.count.sum(0).tolist() == known.sum(0).tolist()
  alpha, gamma, expected = (jnp.array(v) for v in task_losses(small_config, TASKS))
  np.testing.assert_array_equal(weight, expected)
  alone = losses.focal(logits[:9], batch.labels[:9], alpha, gamma)
  np.testing.assert_allclose(losses.reduce(term, weight), losses.reduce(alone, expected), rtol=1e-6)
  np.testing.assert_array_equal(probability(logits), losses.focal_probability(logits, alpha, gamma))
