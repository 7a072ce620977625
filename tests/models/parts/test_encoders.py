"""Encoders of sets and text: what they ignore, what they learn from, and where BERT starts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import models
from crl_jax.backbones import bert
from crl_jax.data.cohort import KINDS
from crl_jax.engine import layout, step
from crl_jax.models.parts import encoders, losses
from crl_jax.models.parts.noise import Noise
from crl_jax.models.record import Batch


def test_every_kind_of_input_has_an_encoder():
  assert set(encoders.ENCODERS) == set(KINDS)


@pytest.fixture(scope="module")
def images():
  """Six places, four of them filled."""
  x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
  x[[1, 4]] = 0
  return x


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_a_set_has_no_order_and_its_padding_no_weight(images, pooling):
  enc = encoders.SetEncoder(8, 0.0, pooling)
  params = enc.init(jax.random.key(0), images, None)
  apply = jax.jit(lambda x: enc.apply(params, x, None))
  expected = apply(images)
  for seed in range(3):
    np.testing.assert_allclose(
        apply(np.random.default_rng(seed).permutation(images)), expected, atol=1e-6)
  np.testing.assert_allclose(apply(images[[0, 2, 3, 5]]), expected, atol=1e-6)
  np.testing.assert_allclose(
      apply(np.concatenate([images, np.zeros_like(images)])), expected, atol=1e-6)
  other = images.copy()
  other[2, 0] += 1
  assert np.abs(apply(other) - expected).max() > 0.01
  assert np.isfinite(apply(np.zeros_like(images))).all()


def test_pooling_is_a_weighted_mean_with_learned_weights():
  e = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  real = np.array([True, False, True, True])
  np.testing.assert_allclose(encoders.Pool("mean").apply({}, e, real), e[real].mean(0), atol=1e-6)
  pool = encoders.Pool("attention")
  params = pool.init(jax.random.key(0), e, real)
  p = params["params"]
  score = np.tanh(e @ p["hidden"]["kernel"] + p["hidden"]["bias"]) @ p["score"]["kernel"][:, 0]
  weights = np.exp(score) * real
  np.testing.assert_allclose(pool.apply(params, e, real), weights @ e / weights.sum(), atol=1e-6)
  # padding: no value, and no gradient either; of none at all neither
  gradient = jax.grad(lambda e: pool.apply(params, e, real).sum())(e)
  assert (gradient[1] == 0).all() and (gradient[0] != 0).any()
  nothing = np.zeros(4, bool)
  value, gradient = jax.value_and_grad(lambda e: pool.apply(params, e, nothing).sum())(e)
  assert value == 0 and (gradient == 0).all()


@pytest.fixture(scope="module")
def setting(tiny_bert):
  """A model of a vector, a set and a text, two batches of rows, and its config."""
  from crl_jax import config as config_lib
  c = config_lib.default().unlock()
  c.model.width, c.model.heads, c.model.dropout = 8, 2, 0.1
  c.model.crl_mmnar.reconstruction = False   # compiles faster, and no encoder knows of it
  c.text.update(dict(model=str(tiny_bert), window=12, finetune=True, finetune_windows=2))
  c.text.dropout = 0.0             # of which tests/backbones/test_bert.py knows
  shapes = {"labs": (4,), "image": (3, 5), "note": (2, 12)}
  spec = models.Spec(tuple(shapes), ("mortality",), shapes, tuple(range(8)),
                     {"image": "set", "note": "text"})
  rng, rows = np.random.default_rng(0), 8
  inputs = {"labs": rng.normal(size=(rows, 4)), "image": rng.normal(size=(rows, 3, 5))}
  inputs = {m: x.astype(np.float32) for m, x in inputs.items()}
  inputs["image"][:, 2] = 0
  inputs["note"] = rng.integers(5, 90, (rows, 2, 12)).astype(np.int32)
  inputs["note"][:, 0, 9:] = inputs["note"][::2, 1] = 0
  observed = np.ones((rows, 3), bool)
  observed[:3, 2] = observed[2:5, 1] = False
  batch = Batch(inputs, observed, (np.arange(rows) % 2)[:, None].astype(np.float32),
                np.ones(rows, bool), np.arange(rows, dtype=np.int32),
                np.arange(rows, dtype=np.int32))
  model = models.build(c, spec)
  fast = dataclasses.replace(model, apply=jax.jit(model.apply, static_argnums=2))
  params = jax.jit(model.init)(jax.random.key(0))
  return c, spec, fast, params, batch


def test_unobserved_content_of_sets_and_texts_changes_nothing(setting):
  _, _, model, params, batch = setting
  inputs = {**batch.inputs,
            "image": np.where(batch.observed[:, 1, None, None], batch.inputs["image"], np.nan),
            "note": np.where(batch.observed[:, 2, None, None], batch.inputs["note"], 7)}
  for train_ in (False, True):
    a, b = (model.apply(params, x, train_, jax.random.key(1))
            for x in (batch, batch.replace(inputs=inputs)))
    np.testing.assert_array_equal(a.logits, b.logits)
  seen = {**batch.inputs, "note": np.where(batch.inputs["note"] > 0, 7, 0).astype(np.int32)}
  moved = model.apply(params, batch.replace(inputs=seen), False, None).logits - model.apply(
      params, batch, False, None).logits
  assert (np.abs(moved[3:]) > 1e-6).all() and (moved[:3] == 0).all()


def test_padded_windows_and_padded_images_change_nothing(setting):
  c, spec, model, params, batch = setting
  shapes = {**spec.shapes, "image": (5, 5), "note": (3, 14)}
  wide = models.build(c, dataclasses.replace(spec, shapes=shapes))
  pad = lambda m, x: np.pad(x, [(0, 0), *((0, n - o) for n, o in zip(shapes[m], x.shape[1:]))])
  more = batch.replace(inputs={m: pad(m, x) for m, x in batch.inputs.items()})
  found = jax.jit(wide.apply, static_argnums=2)(params, more, False, None)
  np.testing.assert_allclose(found.logits, model.apply(params, batch, False, None).logits,
                             atol=1e-5)


def test_bert_starts_from_its_folder(setting, tiny_bert):
  c, _, model, params, batch = setting
  pretrained, = model.pretrained
  assert pretrained.path == ("encode_note", "bert")
  expected = bert.read_params(tiny_bert, bert.read_architecture(tiny_bert))
  optimizer = step.make_optimizer(c)
  vary = {k: jnp.float32(v) for k, v in model.vary.items()}
  drawn = dataclasses.replace(model, init=lambda rng: params)
  start = step.init_member(drawn, optimizer, jax.random.key(0), jnp.float32(0), vary, 0.9,
                           [pretrained.read()])
  member = step.enter_stage(start, step.stage_values(model.stages[1]), model=model,
                             optimizer=optimizer)
  for tree in (start.state.params, start.best, start.state.average, member.state.params):
    jax.tree.map(np.testing.assert_array_equal, tree["encode_note"]["bert"], expected)
  assert pretrained.rate == c.text.learning_rate == 0.1


def test_pretrained_parameters_learn_at_their_own_rate(setting):
  """Adam's first step moves every parameter by the learning rate."""
  c, _, _, _, batch = setting
  params = {"encode_note": {"bert": {"w": jnp.ones(3)}, "w": jnp.ones(2)}, "bert": jnp.ones(2)}
  def apply(params, batch, train, rng, vary, mode, prepared):
    y = sum(x.sum() for x in jax.tree.leaves(params))
    return models.record.Outputs(jnp.full((8, 1), y), jnp.zeros((8, 1)), {})
  model = models.record.Model(
      lambda rng: params, apply,
      lambda outputs, batch, gather: {"prediction": (losses.masked(
          outputs.logits, jnp.ones((8, 1))), 1.0)}, None,
      (models.record.Stage("joint", 1, 0.01, {"prediction": 1.0}, None),), {},
      (models.record.Pretrained(("encode_note", "bert"), lambda: params["encode_note"]["bert"],
                                0.1),))
  optimizer = step.make_optimizer(c)
  start = step.init_member(model, optimizer, jax.random.key(0), jnp.float32(0), {}, 0.0,
                           [part.read() for part in model.pretrained])
  state = step.enter_stage(start, step.stage_values(model.stages[0]), model=model,
                           optimizer=optimizer).state
  after, _ = step.train_step(
      state, batch, model=model, optimizer=optimizer,
      layout=layout.make_layout(jax.devices()[:1], "jit", 1))
  moved = jax.tree.map(lambda a, b: float((a - b).max()), params, after.params)
  assert moved["encode_note"]["bert"]["w"] == pytest.approx(0.001, rel=1e-3)
  assert moved["encode_note"]["w"] == moved["bert"] == pytest.approx(0.01, rel=1e-3)


def test_pretrained_parameters_of_another_shape_are_refused(setting):
  c, _, model, params, _ = setting
  given = model.pretrained[0].read()
  for wrong in ({**given, "word": given["word"][:-1]}, {"word": given["word"]}):
    with pytest.raises(ValueError, match="other names or shapes"):
      step.init_member(dataclasses.replace(model, init=lambda rng: params),
                       step.make_optimizer(c), jax.random.key(0), 0.0, {}, 0.0, [wrong])


def test_absent_texts_teach_bert_nothing(setting):
  _, _, model, params, batch = setting
  def loss(params, observed):
    one = batch.replace(observed=observed)
    terms = model.loss(model.apply(params, one, True, jax.random.key(1)), one)
    return sum(losses.reduce(term, columns) for term, columns in terms.values())
  gradient = jax.jit(jax.grad(loss))
  absent = batch.observed & np.array([True, True, False])
  found, none = (gradient(params, seen)["encode_note"]["bert"] for seen in (batch.observed, absent))
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(none))
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(found))
  assert np.abs(found["word"]).max() > 0
  pad = np.asarray(found["word"])[0]   # id 0: what padding looks like is never read
  assert (pad == 0).all()


def test_a_key_of_noise_is_its_own_for_every_row_and_step():
  bits = np.random.default_rng(0).integers(0, 65536, (3, 8)).astype(np.uint16)
  keys = {tuple(np.asarray(jax.random.key_data(noise.key())))
          for noise in (Noise(b) for b in bits) for _ in range(2)}
  assert len(keys) == 6
  counter = Noise()
  counter.key()
  assert counter.used == 4


def test_a_text_encoder_without_a_folder_says_what_to_get(setting):
  c, spec, *_ = setting
  other = c.copy_and_resolve_references()
  other.text.model = ""
  with pytest.raises(FileNotFoundError, match="Bio_ClinicalBERT"):
    models.build(other, spec)
