"""The fusion against the paper's equations, written in NumPy a view, head and query at a time."""

import flax.traverse_util
import jax
import numpy as np
import pytest

from crl_jax.models.parts import fusion

HEADS, WIDTH, TOKENS = 4, 8, 5
# all visible, one alone, some, and none
VISIBLE = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [1, 0, 0, 1, 1], [0, 0, 0, 0, 0]], bool)


@pytest.fixture(scope="module", params=[1, 2])
def fused(request):
  """layers, tokens (S, D), parameters none of which is 0 or 1, apply(tokens, visible) -> ((h,
  weights), what the modules returned on the way)."""
  rng = np.random.default_rng(request.param)
  tokens = rng.normal(size=(TOKENS, WIDTH)).astype(np.float32)
  module = fusion.Fusion(HEADS, request.param)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), tokens, VISIBLE, None))
  params = jax.tree.map(lambda x: rng.normal(0.3, 0.7, x.shape).astype(np.float32), shapes)
  return request.param, tokens, params["params"], jax.jit(lambda tokens, visible: module.apply(
      params, tokens, visible, None, capture_intermediates=True, mutable=["intermediates"]))


def _dense(p, x_SxF):
  return x_SxF @ p["kernel"].astype(float) + p.get("bias", np.zeros(1))


def _norm(p, x_SxD):
  centred = x_SxD - x_SxD.mean(1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def _attention(p, x_SxD, visible_S):
  """softmax(q k' / sqrt(D / H)) v over the visible keys, the heads side by side, then a Dense."""
  q, k = np.split(_dense(p["query_key"], x_SxD), 2, axis=1)
  v, each = _dense(p["value"], x_SxD), WIDTH // HEADS
  mixed, weights = np.zeros(x_SxD.shape), np.zeros((HEADS, len(x_SxD), len(x_SxD)))
  for h in range(HEADS):
    own = slice(h * each, (h + 1) * each)
    for s in range(len(x_SxD)):
      score = np.exp([q[s, own] @ k[t, own] / np.sqrt(each) for t in np.flatnonzero(visible_S)])
      weights[h, s, visible_S] = score / score.sum()
      mixed[s, own] = weights[h, s] @ v[:, own]
  return _dense(p["output"], mixed), weights


def _fusion(p, x_SxD, visible_S, layers):
  """What the fusion and every module in it return for one view, by their names."""
  named = {}
  for i in range(layers):
    attention, norms = p[f"Attention_{i}"], [p[f"LayerNorm_{2 * i + j}"] for j in (0, 1)]
    outer, inner = (p[f"Dense_{2 * i + j}"] for j in (0, 1))   # as Flax numbers outer(relu(inner))
    for name in ("query_key", "value"):
      named[f"Attention_{i}/{name}"] = [_dense(attention[name], x_SxD)]
    mixed, weights = _attention(attention, x_SxD, visible_S)
    named |= {f"Attention_{i}": [mixed, weights], f"Attention_{i}/output": [mixed]}
    x_SxD = _norm(norms[0], x_SxD + mixed)
    hidden = _dense(inner, x_SxD)
    forward = _dense(outer, np.maximum(hidden, 0))
    named |= {f"LayerNorm_{2 * i}": [x_SxD], f"Dense_{2 * i + 1}": [hidden],
              f"Dense_{2 * i}": [forward]}
    x_SxD = _norm(norms[1], x_SxD + forward)
    named[f"LayerNorm_{2 * i + 1}"] = [x_SxD]
  return named | {"": [x_SxD[visible_S].mean(0), weights]}


def test_equals_the_equations_at_every_step_on_the_way(fused):
  layers, tokens, params, apply = fused
  found = flax.traverse_util.flatten_dict(apply(tokens, VISIBLE)[1]["intermediates"], sep="/")
  found = {name.removesuffix("__call__").rstrip("/"): jax.tree.leaves(x)
           for name, x in found.items()}
  shared = {"Attention_0/query_key", "Attention_0/value"}   # by all views
  for view, visible in enumerate(VISIBLE[:3]):
    expected = _fusion(params, tokens.astype(float), visible, layers)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
      for a, b in zip(found[name], values, strict=True):
        assert a.shape == (1 if name in shared else len(VISIBLE), *b.shape), name
        np.testing.assert_allclose(np.asarray(a)[0 if name in shared else view], b, rtol=1e-4,
                                   atol=1e-5, err_msg=name)


def test_one_visible_token_of_five_gives_that_tokens_value(fused):
  _, tokens, _, apply = fused
  (h, weights), _ = apply(tokens, VISIBLE)
  (alone, _), _ = apply(tokens[2:3], np.ones((1, 1), bool))
  np.testing.assert_allclose(h[1], alone[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(weights[1, :, 2], np.eye(TOKENS)[[2] * HEADS])


def test_nothing_visible_gives_zero(fused):
  _, tokens, _, apply = fused
  (h, weights), _ = apply(tokens, VISIBLE)
  assert (np.asarray(h)[3] == 0).all() and np.isfinite(np.asarray(weights)[3]).all()
