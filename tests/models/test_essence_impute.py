"""What makes the autoencoder and MissModal the methods that they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crl_jax.models.parts import losses
from tests.small_engine import ask, batch_of, built, gradient, make_data, seen


@pytest.fixture(scope="module")
def data():
  return make_data()


@pytest.fixture(scope="module")
def cm_ae(data):
  model, params, _ = built("cm_ae", data)
  return model, params, batch_of(data, np.arange(32))


def test_one_modality_gives_the_others_back(cm_ae):
  """b is planted to have a's token: the view of a alone must find it."""
  model, params, batch = cm_ae
  b = np.pad(batch.inputs["a"], ((0, 0), (0, 2)))
  batch = seen(batch, 1, 1, 0).replace(inputs=batch.inputs | {"b": b})
  like = dict(params["encode_a"])
  like["Dense_0"] = like["Dense_0"] | {"kernel": np.pad(like["Dense_0"]["kernel"],
                                                        ((0, 2), (0, 0)))}
  fixed = {"encode_a": params["encode_a"], "encode_b": like, "encode_c": params["encode_c"]}
  adam = optax.adam(2e-2)
  def loss(own):
    outputs = model.apply(own | fixed, batch, False, None)
    return losses.reduce(*model.loss(outputs, batch)["reconstruction"]), outputs.named
  @jax.jit
  def train(own):
    def step(carry, _):
      own, state = carry
      change, state = adam.update(jax.grad(lambda x: loss(x)[0])(own), state)
      return (optax.apply_updates(own, change), state), None
    return loss(jax.lax.scan(step, (own, adam.init(own)), None, 1000)[0][0])[1]
  found = train({name: x for name, x in params.items() if name not in fixed})
  target, decoded = found["embeddings"][:, 1], found["decoded"][:, 1, 1]
  apart = lambda x: float(jnp.square(target - x).sum())
  assert 1 - apart(decoded) / apart(target.mean(0)) > 0.9


def test_what_is_missing_is_no_target_and_no_view(cm_ae):
  model, params, batch = cm_ae
  learn = gradient(model, terms=("reconstruction",))
  found = learn(params, seen(batch, 1, 0, 1))
  moves = [bool(np.abs(found[f"decode_{m}"]["kernel"]).max() > 0) for m in "abc"]
  assert moves == [True, False, True]
  views = model.apply(params, seen(batch, 1, 0, 1), False, None).named["views"]
  assert views[0].tolist() == [True, True, False, True]
  # targets are constants: the encoders learn by what they give to the code alone
  shut = params | {f"code_{m}": jax.tree.map(jnp.zeros_like, params[f"code_{m}"]) for m in "abc"}
  found = learn(shut, seen(batch, 1, 1, 1))
  assert all((g == 0).all() for m in "abc" for g in jax.tree.leaves(found[f"encode_{m}"]))


def test_the_first_stage_trains_the_code_and_the_second_all_or_the_heads(data, cm_ae):
  first, second = cm_ae[0].stages
  heads = {"head_readmission", "head_mortality"}
  assert {path[0] for path in first.trains} == set(cm_ae[1]) - heads and second.trains == ()
  assert first.weights == dict(prediction=0.0, reconstruction=1.0)
  frozen = built("cm_ae", data, frozen=True)[0].stages[1]
  assert {path[0] for path in frozen.trains} == heads


@pytest.fixture(scope="module")
def missmodal(data):
  """The model, its parameters, a batch, and its outputs in training without dropout."""
  model, params, _ = built("missmodal", data)
  batch = batch_of(data, np.arange(32))
  run = jax.jit(functools.partial(model.apply, train=True, rng=jax.random.key(2),
                                  vary=dict(dropout=jnp.float32(0))))
  return model, params, batch, run(params, batch)


def test_the_part_is_what_the_row_would_be_observed_so(missmodal):
  model, params, batch, outputs = missmodal
  part = outputs.named["seen"]
  assert (part != batch.observed).any() and (part == batch.observed).all(1).any()
  again = batch.replace(observed=np.asarray(part))
  np.testing.assert_allclose(ask(model, params, again), outputs.named["part_logits"], atol=1e-5)
  np.testing.assert_allclose(ask(model, params, batch), outputs.logits, atol=1e-5)


def test_the_part_is_drawn_to_the_whole_and_not_the_whole_to_it(missmodal):
  model, _, batch, outputs = missmodal
  def distance(whole, part):
    named = outputs.named | dict(part=part)
    return losses.reduce(*model.loss(outputs.replace(representation=whole, named=named), batch)
                         ["distance"])
  whole, part = jax.grad(distance, (0, 1))(outputs.representation, outputs.named["part"])
  assert (whole == 0).all() and np.abs(part).max() > 0
  assert distance(outputs.representation, outputs.representation) == 0


def test_rows_of_one_modality_have_no_part(missmodal):
  model, _, batch, outputs = missmodal
  two = batch.observed.sum(1) > 1
  terms = model.loss(outputs, batch)
  for name in ("contrast", "distance"):
    np.testing.assert_array_equal(terms[name][0].count[:, 0], two)
  known = ~np.isnan(batch.labels) & two[:, None]
  np.testing.assert_array_equal(terms["semantic"][0].count, known)


def test_a_part_is_to_be_found_by_its_whole_and_the_other_way(missmodal):
  model, _, batch, outputs = missmodal
  def value(whole, part):
    named = outputs.named | dict(part=part)
    term, _ = model.loss(outputs.replace(representation=whole, named=named), batch)["contrast"]
    return np.asarray(term.value[:, 0])[batch.observed.sum(1) > 1]
  a, b = jax.random.normal(jax.random.key(0), (2, 32, 8))
  np.testing.assert_allclose(value(a, b), value(b, a), atol=1e-5)   # both directions
  assert value(a, a).mean() < 0.5 < value(a, b).mean()
