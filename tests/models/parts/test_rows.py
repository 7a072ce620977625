"""What makes the mapped rows of a batch cheap: their noise, and products of all their tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models.parts import noise, rows


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_a_rows_noise_is_that_of_jax_random(count):
  keys = jax.vmap(lambda slot: jax.random.fold_in(jax.random.key(3), slot))(jnp.arange(5))
  found = jax.jit(lambda keys: noise.draw(keys, count))(keys)
  expected = jax.vmap(lambda key: jax.random.bits(key, (count,), jnp.uint16))(keys)
  assert found.dtype == jnp.uint16
  np.testing.assert_array_equal(found, expected)


def test_the_tokens_of_all_rows_are_one_product_of_two_matrices():
  """Also where members are mapped around it: then of three axes, one of them theirs."""
  x, kernels = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(
      ((4, 3, 5, 6), (2, 6, 7))))   # rows, views, tokens; members
  dimensions = ((2,), (0,)), ((), ())
  def loss(product):
    one = lambda kernel: jnp.sin(jax.vmap(lambda x: product(x, kernel, dimensions))(x)).sum()
    return one, lambda kernels: jax.vmap(jax.value_and_grad(one))(kernels)
  (one, members), (expected, several) = loss(rows.token_product), loss(jax.lax.dot_general)
  for a, b in zip(jax.tree.leaves(members(kernels)), jax.tree.leaves(several(kernels))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(jax.jit(one)(kernels[0]), jax.jit(expected)(kernels[0]))
  axes = lambda f: [len(e.params["dimension_numbers"][0][0])
                    for e in jax.make_jaxpr(jax.grad(f))(kernels[0]).jaxpr.eqns
                    if e.primitive is jax.lax.dot_general_p]
  assert max(axes(one)) == 1 < max(axes(expected))
