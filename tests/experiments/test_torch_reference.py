"""The model in PyTorch that benchmarks compare with is the same model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.engine import step as step_lib
from experiments import benchmarks
from experiments.benchmarks import setup, step, training

torch = pytest.importorskip("torch")


def load_flax(model, params):
  """Copies the parameters of crl_jax's model of the same config into `model`."""
  @torch.no_grad()
  def linear(layer, tree):
    layer.weight.copy_(torch.as_tensor(tree["kernel"]).T)
    if layer.bias is not None:
      layer.bias.copy_(torch.as_tensor(tree["bias"]))

  @torch.no_grad()
  def norm(layer, tree):
    layer.weight.copy_(torch.as_tensor(tree["scale"]))
    layer.bias.copy_(torch.as_tensor(tree["bias"]))

  def sequence(layers, *trees):
    found = [x for x in layers if isinstance(x, torch.nn.Linear)]
    for layer, tree in zip(found, trees, strict=True):
      linear(layer, tree)

  for m, encoder in model.encoders.items():
    tree = params[f"encode_{m}"]
    sequence(encoder, *(tree[f"Dense_{i}"] for i in range(3)))
    for i, layer in enumerate(x for x in encoder if isinstance(x, torch.nn.LayerNorm)):
      norm(layer, tree[f"LayerNorm_{i}"])
  missing = params["missingness"]
  # Flax numbers Dense(...)(relu(Dense(...)(x))) from the outside
  sequence(model.missingness, missing["Dense_1"], missing["Dense_0"])
  sequence(model.pattern, missing["Dense_3"], missing["Dense_2"])
  linear(model.gate, params["gate"]["Dense_0"])
  fusion, attention = params["fusion"], params["fusion"]["Attention_0"]
  for name in ("query_key", "value", "output"):
    linear(model.fusion.get_submodule(name), attention[name])
  sequence(model.fusion.forward_, fusion["Dense_1"], fusion["Dense_0"])
  for i, layer in enumerate(model.fusion.norms):
    norm(layer, fusion[f"LayerNorm_{i}"])
  for m, decoder in model.decoders.items():
    sequence(decoder, params[f"decode_{m}"], params[f"decode_{m}_out"])
  for t, head in model.heads.items():
    tree = params[f"head_{t}"]
    sequence(head, *(tree[f"Dense_{i}"] for i in range(len(tree))))


def test_the_same_loss_and_the_same_parameters_after_a_step():
  from experiments.benchmarks import torch_reference
  options = benchmarks.Options(rows=400, steps=1, repeats=1, settings=(
      "data.simulate.sizes=(6, 20, 12, 12)", "model.width=16", "model.heads=4",
      "model.dropout=0.0"))
  prepared, config = setup.prepare(options), setup.settings(options)
  bench = setup.Bench(config, prepared, steps=1)
  state = jax.tree.map(lambda x: jnp.array(x[0]), bench.member().state)
  rows = prepared.train[0][:32]
  batch = training.HostLoop(bench, prepared.data).batch(rows)
  data = dict(prepared.data, inputs={m: x[0] for m, x in prepared.data["inputs"].items()})

  def reference(params):
    trainer = torch_reference.Trainer(config, data, prepared.tasks,
                                      config_lib.task_losses(config, prepared.tasks))
    load_flax(trainer.model, jax.tree.map(np.array, params))
    trainer.model.train()
    return trainer

  other, rows = reference(state.params), torch.as_tensor(rows)
  loss = float(step._loss(state.params, state, bench, batch))
  assert float(other.loss(rows).detach()) == pytest.approx(loss, rel=1e-5)
  new, _ = jax.jit(lambda state: step_lib.train_step(
      state, batch, model=bench.model, optimizer=bench.optimizer, layout=bench.programs.layout))(
          state)
  other.step(rows)
  before, after = (reference(params).model.state_dict() for params in (state.params, new.params))
  for name, found in other.model.state_dict().items():
    moved = float((after[name] - before[name]).abs().max())
    np.testing.assert_allclose(found, after[name], atol=0.01 * moved + 1e-7, err_msg=name)
  assert sum(not torch.equal(before[name], after[name]) for name in before) > len(before) // 2
