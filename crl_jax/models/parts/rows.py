"""From a flax module of one row, and one of rows that meet, to the functions of a
models.record.Model."""

import jax
import jax.numpy as jnp

from crl_jax.models.parts import noise as noise_lib
from crl_jax.models.parts.noise import Noise
from crl_jax.models.record import Batch


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


def batched(module, inputs, modalities, dropout, told=None):
  """(init, apply, vary) of a Model whose rows do not meet before the loss.

  Args:
    module: called with (inputs, observed (M,), noise) of one row, and what it is told; returns
      record.Outputs.
    inputs: modality -> an example of one row's input.
    modalities: M, how many there are.
    dropout: the rate, which may vary between members.
    told: examples of those of "mode" and "prepared" (see record.Apply) that the module takes by
      keyword. A module that is told the mode must walk through the branches of all modes while
      `self.is_initializing()`, so that no mode lacks parameters or noise.
  """
  told = told or {}
  example = inputs, jnp.ones(modalities, bool)
  counter = Noise()
  jax.eval_shape(lambda rng: module.init(rng, *example, counter, **told), jax.random.key(0))
  vary = {"dropout": dropout}

  def init(rng):
    return module.init(rng, *example, Noise(), **told)["params"]

  def apply(params, batch, train, rng, vary=vary, mode="", prepared=None):
    known = {"mode": mode, "prepared": prepared}
    tells = {name: known[name] for name in told}
    one = lambda x, seen, noise: module.apply({"params": params}, x, seen, noise, **tells)
    if not train:
      return jax.vmap(lambda x, seen: one(x, seen, None))(batch.inputs, batch.observed)
    # A row's noise depends on its slot in the global batch alone, so any device layout draws the
    # same.
    bits = noise_lib.draw(jax.vmap(lambda slot: jax.random.fold_in(rng, slot))(batch.slot),
                          counter.used)
    return jax.vmap(lambda x, seen, b: one(x, seen, Noise(b, vary["dropout"])))(
        batch.inputs, batch.observed, bits)

  return init, apply, vary


def joined(module, meeting, inputs, modalities, tasks, dropout, told=None):
  """(init, apply, join, vary) of a Model whose rows pass through `module` and then meet.

  Args:
    meeting: a flax module called with (outputs, batch, sends (N,), noise) of N rows, see
      record.Join, and what it is told; returns record.Outputs. Its parameters are params["join"].
      `noise` is a RowsNoise or None.
    tasks: T, how many there are.
    module, inputs, modalities, dropout, told: see batched(); both modules are told the same.
  """
  told = told or {}
  init_rows, apply, vary = batched(module, inputs, modalities, dropout, told)
  two = lambda x: jnp.zeros((2, *x.shape), x.dtype)
  batch = Batch({m: two(x) for m, x in inputs.items()}, jnp.ones((2, modalities), bool),
                jnp.zeros((2, tasks)), jnp.ones(2, bool), jnp.arange(2), jnp.arange(2))

  def init_meeting(rng, params, noise):
    outputs = apply(params, batch, False, None, **told)
    return meeting.init(jax.random.fold_in(rng, 1), outputs, batch.replace(inputs={}),
                        jnp.ones(2, bool), noise, **told)["params"]

  def init(rng):
    params = init_rows(rng)
    return params | {"join": init_meeting(rng, params, noise_lib.RowsNoise())}

  counter = noise_lib.RowsNoise()
  jax.eval_shape(lambda rng: init_meeting(rng, init_rows(rng), counter), jax.random.key(0))

  def join(params, outputs, batch, sends, train, rng, vary=vary, mode="", prepared=None):
    known, noise = {"mode": mode, "prepared": prepared}, None
    if train:   # other numbers than those of the row's own part
      keys = jax.vmap(lambda slot: jax.random.fold_in(rng, slot))(batch.slot + (1 << 30))
      noise = noise_lib.RowsNoise(noise_lib.draw(keys, counter.used), vary["dropout"])
    return meeting.apply({"params": params["join"]}, outputs, batch, sends, noise,
                         **{name: known[name] for name in told})

  return init, apply, join, vary
