"""What makes the models of rows that meet the methods that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crl_jax.models.parts import graphs, losses
from tests.small_engine import batch_of, built, make_data


def test_a_kernel_is_the_mean_of_three_gaussians_of_the_pairs_distance():
  rng = np.random.default_rng(0)
  x, pairs = rng.normal(size=(7, 3)).astype(np.float32), rng.random((7, 7)) < 0.5
  d = np.square(x[:, None] - x).sum(-1)
  width = d[pairs].mean()
  expected = np.mean([np.exp(-d / (width * f)) for f in (0.5, 1, 2)], 0)
  np.testing.assert_allclose(graphs.gaussian(jnp.array(x), jnp.array(pairs)), expected, atol=1e-4)
  assert np.isfinite(graphs.gaussian(jnp.array(x), jnp.zeros((7, 7), bool))).all()


def test_a_row_is_standardised_by_those_that_send():
  x = np.random.default_rng(0).normal(3.0, 2.0, (9, 4)).astype(np.float32)
  who = np.arange(9) < 6
  expected = (x - x[who].mean(0)) / np.sqrt(x[who].var(0) + 1e-5)
  np.testing.assert_allclose(graphs.standardised(jnp.array(x), jnp.array(who)), expected, atol=1e-4)


@pytest.fixture(scope="module")
def m3care():
  """The model, its parameters, 24 rows that met, and meet(params, batch, sends)."""
  data = make_data()
  model, params, _ = built("m3care", data)
  batch = batch_of(data, np.arange(24))
  observed = batch.observed.copy()
  observed[:4] = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 1]]
  batch = batch.replace(observed=observed)
  @jax.jit
  def meet(params, batch, sends):
    outputs = model.apply(params, batch, False, None)
    return model.join(params, outputs, batch.replace(inputs={}), sends, False, None).named
  return model, params, batch, meet


ALL = np.ones(24, bool)


def test_similarity_is_symmetric_and_of_shared_modalities(m3care):
  _, params, batch, meet = m3care
  s = np.asarray(meet(params, batch, ALL)["similar"])
  np.testing.assert_allclose(s, s.T, atol=1e-6)
  shared = (batch.observed[:, None] & batch.observed).any(-1)
  assert (s >= 0).all() and (s <= 1 + 1e-6).all() and (s[~shared] == 0).all() and (~shared).any()
  np.testing.assert_allclose(np.diag(s)[batch.observed.any(1)], 1.0, atol=1e-4)


def test_a_missing_token_is_what_similar_senders_say(m3care):
  """Row 0 has a alone; row 3 has a like it, and c."""
  _, params, batch, meet = m3care
  a = batch.inputs["a"].copy()
  a[3] = a[0] + 0.01
  batch = batch.replace(inputs=batch.inputs | {"a": a})
  c = batch.inputs["c"].copy()
  c[3] += 1.0
  other = batch.replace(inputs=batch.inputs | {"c": c})
  def moved(params, sends):
    x, y = (np.asarray(meet(params, one, sends)["completed"]) for one in (batch, other))
    return np.abs(x - y).max(-1)
  assert moved(params, ALL)[0, 2] > 1e-4
  assert moved(params, ALL & (np.arange(24) != 3))[0, 2] == 0      # it does not send
  # row 1 shares no modality with row 3, and no row is similar to one that has nothing in common
  lonely = batch.observed[:, None] & batch.observed
  assert not lonely[1, 3].any()
  shut = params | {"join": params["join"] | {"threshold": jnp.float32(30.0)}}   # no edge is left
  assert moved(shut, ALL)[0, 2] == 0


@pytest.mark.slow
def test_the_threshold_is_learned_and_the_graph_is_not_empty_after_50_steps(m3care):
  model, params, batch, meet = m3care
  def total(params):
    outputs = model.apply(params, batch, True, jax.random.key(1))
    outputs = model.join(params, outputs, batch.replace(inputs={}), batch.valid, True,
                         jax.random.key(1))
    return sum(model.stages[0].weights[name] * losses.reduce(*term)
               for name, term in model.loss(outputs, batch).items())
  optimizer = optax.adam(3e-3)
  @jax.jit
  def step(params, state):
    gradient = jax.grad(total)(params)
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, change), state, gradient
  state = optimizer.init(params)
  for i in range(50):
    params, state, gradient = step(params, state)
    assert i or np.abs(gradient["join"]["threshold"]) > 0
  s = np.asarray(meet(params, batch, ALL)["similar"])
  theta = 1 / (1 + np.exp(-params["join"]["threshold"]))
  edges = (s > theta) & ~np.eye(24, dtype=bool)
  assert edges.sum() > 24 and not edges.all()


def test_messages_are_means_along_edges_from_rows_that_send():
  """A layer by hand."""
  rng = np.random.default_rng(0)
  p, q, e = (rng.normal(size=s).astype(np.float32) for s in ((5, 3), (2, 3), (5, 2, 4)))
  there = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], bool)
  sends = np.array([1, 1, 1, 1, 0], bool)
  module = graphs.Bipartite(6, 1, norm=False)
  variables = module.init(jax.random.key(0), p, q, e, there, sends)
  found_p, found_q = module.apply(variables, p, q, e, there, sends)
  layer = lambda name, x: np.maximum(x @ variables["params"][name]["kernel"], 0)   # no bias yet
  say = lambda node, edge: layer("send_0", np.concatenate([node, edge]))
  for i in range(5):
    told = [say(q[m], e[i, m]) for m in range(2) if there[i, m]]
    mean = np.mean(told, 0) if told else np.zeros(6)
    np.testing.assert_allclose(found_p[i], layer("update_0", np.concatenate([mean, p[i]])),
                               atol=1e-5)
  for m in range(2):
    mean = np.mean([say(p[i], e[i, m]) for i in range(5) if there[i, m] and sends[i]], 0)
    np.testing.assert_allclose(found_q[m], layer("update_0", np.concatenate([mean, q[m]])),
                               atol=1e-5)


@pytest.fixture(scope="module")
def grape():
  """The model, its parameters, 24 rows, meet(params, batch, sends, rng=None) -> Outputs."""
  data = make_data()
  model, params, _ = built("grape", data)
  @jax.jit
  def meet(params, batch, sends, rng=None):
    train = rng is not None
    outputs = model.apply(params, batch, False, None)
    return model.join(params, outputs, batch.replace(inputs={}), sends, train, rng)
  return model, params, batch_of(data, np.arange(24)), meet


def test_a_missing_cell_is_filled_from_what_senders_have(grape):
  _, params, batch, meet = grape
  observed = batch.observed.copy()
  observed[0] = [True, False, False]
  batch = batch.replace(observed=observed)
  i = 1 + int(observed[1:, 1].argmax())
  b = batch.inputs["b"].copy()
  b[i] += 1.0
  other = batch.replace(inputs=batch.inputs | {"b": b})
  def moved(sends):
    x, y = (np.asarray(meet(params, one, sends).named["filled"]) for one in (batch, other))
    return np.abs(x - y)[0].max()
  assert moved(ALL) > 1e-5 and moved(ALL & (np.arange(24) != i)) == 0


def test_training_leaves_edges_out_and_may_ask_for_them_back(grape):
  model, params, batch, meet = grape
  trained = meet(params, batch, ALL, jax.random.key(0))
  left = np.asarray(trained.named["left_out"])
  assert not (left & ~batch.observed).any() and 0.1 < left[batch.observed].mean() < 0.5
  assert not np.asarray(meet(params, batch, ALL).named["left_out"]).any()
  term, _ = model.loss(trained, batch)["impute"]
  np.testing.assert_array_equal(term.count, left)
  apart = np.square(trained.named["filled"] - trained.named["edges"]).mean(-1)
  np.testing.assert_allclose(term.value, apart, rtol=1e-4)
  # an edge that is left out is one that is not there
  gone = batch.replace(observed=batch.observed & ~left)
  np.testing.assert_allclose(meet(params, gone, ALL).logits, trained.logits, atol=1e-4)
