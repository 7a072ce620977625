"""What makes MedFuse the method that it is; each test fails where that line is gone."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models.parts import encoders
from tests.small_engine import ask, batch_of, built, make_data, seen


@pytest.fixture(scope="module")
def data():
  return make_data()


@pytest.fixture(scope="module")
def medfuse(data):
  model, params, c = built("medfuse_ri", data)
  return model, params, c, batch_of(data, np.arange(8))


def by_hand(params, c, batch, names):
  """Logits of an LSTM that reads the tokens of `names` alone, by flax's own loop."""
  encode = encoders.VectorEncoder(c.model.width, 0.0)
  steps = []
  for m in names:
    e = encode.apply({"params": params[f"encode_{m}"]}, batch.inputs[m], None)
    own = params.get(f"project_{m}")
    steps.append(e if own is None else e @ own["kernel"] + own["bias"])
  h = jnp.zeros((len(batch.slot), 8))
  if names:
    h = nn.RNN(nn.OptimizedLSTMCell(8), name="lstm").apply(
        {"params": {"cell": params["lstm"]}}, jnp.stack(steps, 1))[:, -1]
  heads = [params[f"head_{t}"] for t in ("readmission", "mortality")]
  dense = lambda x, p: x @ p["kernel"] + p["bias"]
  def said(head):
    *hidden, last = (head[f"Dense_{i}"] for i in range(len(head)))
    x = h
    for layer in hidden:
      x = nn.relu(dense(x, layer))
    return dense(x, last)[:, 0]
  return jnp.stack([said(head) for head in heads], 1)


@pytest.mark.parametrize("pattern", [(1, 1, 1), (1, 0, 1), (0, 1, 0), (0, 0, 0)])
def test_a_missing_modality_is_no_step_of_the_sequence(medfuse, pattern):
  model, params, c, batch = medfuse
  names = [m for m, there in zip("abc", pattern) if there]
  np.testing.assert_allclose(ask(model, params, seen(batch, *pattern)),
                             by_hand(params, c, batch, names), atol=1e-5)


def test_the_order_of_the_modalities_matters_and_is_chosen(data, medfuse):
  _, params, _, batch = medfuse
  other = built("medfuse_ri", data, order=("a", "c", "b"))[0]
  assert np.abs(ask(other, params, batch) - ask(medfuse[0], params, batch)).max() > 1e-3
  with pytest.raises(ValueError, match="order is .*names each of a, b, c once"):
    built("medfuse_ri", data, order=("a", "c"))


def test_a_share_of_the_rows_with_less_than_two_modalities_is_seen(data):
  model = built("medfuse", data, share=0.25)[0]
  alone, joint = model.stages
  observed = np.arange(4000)[:, None] % 3 == np.arange(3)   # one modality each
  observed[:1000] = True
  found = joint.rows(observed, None, np.random.default_rng(0))
  assert alone.rows is None and found[:1000].all() and abs(found[1000:].mean() - 0.25) < 0.03
  assert built("medfuse_pt", data)[0].stages[1].rows is None


def test_the_encoders_are_trained_alone_first_and_then_with_all(data):
  model, params, _ = built("medfuse_pt", data)
  alone, joint = model.stages
  own = lambda stage: {path[0] for path in stage.trains}
  encoded = {f"encode_{m}" for m in data["inputs"]}
  assert own(alone) == encoded | {f"alone_{m}" for m in data["inputs"]}
  assert own(joint) == set(params) - {f"alone_{m}" for m in data["inputs"]} > encoded
  ri, _, _ = built("medfuse_ri", data)
  assert len(ri.stages) == 1 and not ri.stages[0].trains
  batch = batch_of(data, np.arange(8))
  mine = {name: x for name, x in params.items() if not name.startswith("alone_")}
  np.testing.assert_array_equal(ask(ri, mine, batch), ask(model, params, batch))
  said = model.apply(params, batch, False, None, mode="alone").named["alone"]
  e = encoders.VectorEncoder(8, 0.0).apply({"params": params["encode_b"]}, batch.inputs["b"], None)
  head = params["alone_b"]
  there = batch.observed[:, 1]
  np.testing.assert_allclose(said[there, 1], (e @ head["kernel"] + head["bias"])[there], atol=1e-5)
