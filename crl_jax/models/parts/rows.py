"""From a flax module of one row to the batched `init` and `apply` of a models.record.Model."""

import jax
import jax.numpy as jnp

from crl_jax.models.parts import noise as noise_lib
from crl_jax.models.parts.noise import Noise


@jax.custom_batching.custom_vmap
def _product(x, kernel):
  return x @ kernel


@_product.def_vmap
def _(_, mapped, x, kernel):
  x_mapped, kernel_mapped = mapped
  if x_mapped and not kernel_mapped:
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1), True
  return jax.vmap(jnp.matmul, [0 if m else None for m in mapped])(x, kernel), True


def token_product(x, kernel, dimensions, precision=None):
  """The dot_general of an nn.Dense that several tokens of a row go through: one product of two
  matrices for the tokens of all mapped rows.

  With an axis more, the kernel's gradient would be a sum over two axes, for which XLA copies an
  operand transposed. It has a gradient where rows are mapped only.

  Args:
    x: (..., F).
    kernel: (F, D).
  Returns:
    (..., D).
  """
  del dimensions, precision   # those of nn.Dense by default
  return _product(x, kernel)


def batched(module, inputs, modalities, dropout):
  """(init, apply, vary) of a Model whose rows do not meet before the loss.

  Args:
    module: called with (inputs, observed (M,), noise) of one row; returns record.Outputs.
    inputs: modality -> an example of one row's input.
    modalities: M, how many there are.
    dropout: the rate, which may vary between members.
  """
  example = inputs, jnp.ones(modalities, bool)
  counter = Noise()
  jax.eval_shape(lambda rng: module.init(rng, *example, counter), jax.random.key(0))
  vary = {"dropout": dropout}

  def init(rng):
    return module.init(rng, *example, Noise())["params"]

  def apply(params, batch, train, rng, vary=vary):
    one = lambda x, seen, noise: module.apply({"params": params}, x, seen, noise)
    if not train:
      return jax.vmap(lambda x, seen: one(x, seen, None))(batch.inputs, batch.observed)
    # A row's noise depends on its slot in the global batch alone, so any device layout draws the
    # same.
    bits = noise_lib.draw(jax.vmap(lambda slot: jax.random.fold_in(rng, slot))(batch.slot),
                          counter.used)
    return jax.vmap(lambda x, seen, b: one(x, seen, Noise(b, vary["dropout"])))(
        batch.inputs, batch.observed, bits)

  return init, apply, vary
