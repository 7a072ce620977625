"""Structural claims of the model, each shown by its outputs and its gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import config as config_lib, models
from crl_jax.models import crl_mmnar
from crl_jax.models.parts import losses
from crl_jax.models.parts.encoders import SequenceEncoder
from tests.small_engine import drawn


_BUILT = {}   # compiling is most of the time of these tests


def made(config, spec, **settings):
  c = config.copy_and_resolve_references().unlock()
  for key, value in settings.items():
    (c.model if key in c.model else c.model.crl_mmnar)[key] = value
  return models.build(c, spec)


def built(config, spec, **settings):
  key = repr(sorted(settings.items()))
  if key not in _BUILT:
    model = made(config, spec, **settings)
    model = dataclasses.replace(model, apply=jax.jit(model.apply, static_argnums=2))
    _BUILT[key] = model, drawn(model)
  return _BUILT[key]


def total(model, params, batch, rng=jax.random.key(1)):
  terms = model.loss(model.apply(params, batch, True, rng), batch)
  return sum(losses.reduce(term, columns) for term, columns in terms.values())


def with_hidden_content(batch, spec, value):
  """The batch with `value` as the content of every unobserved modality."""
  inputs = {m: np.where(batch.observed[:, i].reshape(-1, *[1] * (batch.inputs[m].ndim - 1)),
                        batch.inputs[m], value) for i, m in enumerate(spec.modalities)}
  return batch.replace(inputs={m: x.astype(np.float32) for m, x in inputs.items()})


@pytest.mark.parametrize("hide", ["all", "one"])
@pytest.mark.parametrize("conditioning", [True, False])
def test_unobserved_content_changes_nothing_and_has_zero_gradient(
    small_config, spec, batch, hide, conditioning):
  model, params = built(small_config, spec, hide=hide, conditioning=conditioning)
  one, other = (with_hidden_content(batch, spec, value) for value in (0.0, np.nan))
  a, b = (model.apply(params, x, True, jax.random.key(1)) for x in (one, other))
  jax.tree.map(np.testing.assert_array_equal, (a.logits, a.representation),
               (b.logits, b.representation))
  loss, gradient = jax.jit(jax.value_and_grad(
      lambda inputs: total(model, params, other.replace(inputs=inputs))))(other.inputs)
  assert np.isfinite(loss)
  for m, name in enumerate(spec.modalities):
    assert (np.asarray(gradient[name])[~batch.observed[:, m]] == 0).all()
    assert (np.asarray(gradient[name])[batch.observed[:, m]] != 0).any()


@pytest.mark.parametrize("conditioning", [True, False])
def test_a_row_with_nothing_observed_is_finite(small_config, spec, batch, conditioning):
  model, params = built(small_config, spec, conditioning=conditioning)
  assert np.isfinite(model.apply(params, batch, False, None).logits[3]).all()
  gradient = jax.jit(jax.grad(lambda p: total(model, p, batch)))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_the_pattern_matters_only_with_conditioning(small_config, spec, batch):
  """Same visible content, another pattern: the representation moves through z, gates and token
  alone."""
  empty = batch.replace(inputs=jax.tree.map(np.zeros_like, batch.inputs))
  for conditioning, moves in ((True, True), (False, False)):
    model, params = built(small_config, spec, conditioning=conditioning)
    # All encoders alike, so that without conditioning the masked mean over equal tokens hides which
    # are present.
    shared = {k: v for k, v in params.items() if not k.startswith("encode_")}
    encoders = {f"encode_{m}": jax.tree.map(jnp.zeros_like, params[f"encode_{m}"])
                for m in spec.modalities}
    h = model.apply(shared | encoders, empty, False, None).representation[4:]
    several = batch.observed[4:].any(1)
    assert (np.ptp(np.asarray(h)[several], axis=0).max() > 1e-4) == moves


def test_hidden_modality_is_out_of_its_own_reconstruction(small_config, spec, batch):
  model, params = built(small_config, spec, dropout=0.0)
  whole = batch.replace(observed=np.ones_like(batch.observed))
  for m, name in enumerate(spec.modalities):
    def decoded(x):
      out = model.apply(params, whole.replace(inputs={**whole.inputs, name: x}), True,
                        jax.random.key(1))
      return out.named["decoded"][:, m].sum()
    assert (jax.jit(jax.grad(decoded))(whole.inputs[name]) == 0).all()


@pytest.mark.parametrize("hide", ["all", "one"])
def test_a_row_with_one_modality_counts_in_no_reconstruction(small_config, spec, batch, hide):
  """Nothing would be left to reconstruct it from. Of others every modality counts, and what is
  hidden weighs as much as all of them."""
  model, params = built(small_config, spec, hide=hide, conditioning=True)
  observed = batch.observed.copy()
  observed[5:9] = np.eye(4, dtype=bool)   # each of the four alone
  named = model.apply(params, batch.replace(observed=observed), True, jax.random.key(1)).named
  weight, count, hidden = (np.asarray(named[k]) for k in ("rec_weight", "rec_count", "hidden"))
  several = observed.sum(1) > 1
  assert several.sum() > 5 and not several[5:9].any() and not several[3]
  for found in (weight, count, hidden):
    assert (found[~several] == 0).all()
  np.testing.assert_array_equal(count[several], observed[several])
  np.testing.assert_array_equal(weight[several].sum(1), observed[several].sum(1))


def test_hiding_one_at_random_estimates_hiding_all(small_config, spec, batch):
  """The reconstruction loss of hide='one', averaged over draws, is that of hide='all'."""
  model_all, params = built(small_config, spec, dropout=0.0)
  model_one, _ = built(small_config, spec, dropout=0.0, hide="one")
  def reconstruction(model, rng):
    term, columns = model.loss(model.apply(params, batch, True, rng), batch)["reconstruction"]
    return losses.reduce(term, columns)

  exact = reconstruction(model_all, jax.random.key(0))
  draws = jax.jit(jax.vmap(lambda rng: reconstruction(model_one, rng)))(
      jax.random.split(jax.random.key(0), 1000))
  assert abs(draws.mean() - exact) < 4 * draws.std() / 1000 ** 0.5
  assert draws.std() > 0


def test_switches_remove_exactly_their_terms(small_config, spec, batch):
  def names(**settings):
    model = made(small_config, spec, **settings)
    return set(jax.eval_shape(lambda rng: model.loss(model.apply(model.init(rng), batch, True, rng),
                                                     batch), jax.random.key(0)))
  everything = {"prediction", "missingness", "reconstruction", "contrastive"}
  assert names() == everything
  assert names(conditioning=False) == everything - {"missingness"}
  assert names(contrastive=False) == everything - {"contrastive"}
  assert names(reconstruction=False) == everything - {"reconstruction", "contrastive"}
  assert names(pattern_head=True) == everything | {"pattern"}


def with_terms(params, spec, batch):
  """(params with a term of 0.1 x (pattern, task) places, (B, T) what that adds to the logits)."""
  table = np.arange(len(spec.patterns) * 2, dtype=np.float32).reshape(-1, 2) / 10
  ids = np.asarray(batch.observed) @ (1 << np.arange(len(spec.modalities)))
  added = np.array([table[spec.patterns.index(p)] if p in spec.patterns else (0, 0) for p in ids])
  return {**params, "pattern_term": table}, crl_mmnar._TERM * added


def test_the_patterns_own_term_starts_from_nothing_and_adds_to_its_rows(small_config, spec, batch):
  _, off = built(small_config, spec)
  model, _ = built(small_config, spec, pattern_term=0.5)
  first = jax.jit(model.init)(jax.random.key(0))["pattern_term"]
  assert not np.asarray(first).any()
  params = off | {"pattern_term": first}
  before = model.apply(params, batch, False, None).logits
  np.testing.assert_allclose(before, built(small_config, spec)[0].apply(
      off, batch, False, None).logits, rtol=1e-4, atol=1e-6)   # the prior's mean
  changed, added = with_terms(params, spec, batch)
  found = model.apply(changed, batch, False, None)
  np.testing.assert_allclose(found.logits - before, added, rtol=1e-4, atol=1e-4)
  assert added.any(1).sum() > 8


def test_a_pattern_that_training_never_saw_has_no_term(small_config, spec, batch):
  some = dataclasses.replace(spec, patterns=spec.patterns[:8])   # never the last modality
  model = made(small_config, some, pattern_term=0.5)
  params = drawn(model)
  params["pattern_term"] = np.zeros_like(params["pattern_term"])
  changed, added = with_terms(params, some, batch)
  difference = jax.jit(lambda a, b: model.apply(a, batch, False, None).logits
                       - model.apply(b, batch, False, None).logits)(changed, params)
  unseen = np.asarray(batch.observed)[:, 3]
  assert unseen.any() and not np.asarray(difference)[unseen].any()
  np.testing.assert_allclose(difference, added, rtol=1e-4, atol=1e-4)


def test_the_terms_prior_is_that_of_a_random_effect(small_config, spec, batch):
  """Over a pattern's training rows, minus its log density, on the scale of half the log-loss."""
  ids = np.asarray(batch.observed) @ (1 << np.arange(len(spec.modalities)))
  rows = np.arange(16) * 10 + 10
  model = made(small_config, dataclasses.replace(spec, rows=tuple(int(n) for n in rows)),
               pattern_term=0.7)
  plain, params = built(small_config, spec, pattern_term=0.5)
  changed, added = with_terms(params, spec, batch)
  outputs = plain.apply(changed, batch, True, jax.random.key(1))
  found, _ = model.loss(outputs, batch)["prediction"]
  data, _ = built(small_config, spec)[0].loss(outputs, batch)["prediction"]
  splits = small_config.splits
  trained = rows[ids] * (1 - 1 / splits.folds) * (1 - splits.validation)
  expected = 0.5 * added**2 / (2 * 0.7**2) / trained[:, None]
  np.testing.assert_allclose(found.value - data.value, expected, rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(found.count, data.count)


def test_padding_counts_in_no_loss(small_config, spec, batch):
  model, params = built(small_config, spec, dropout=0.0, pattern_head=True)
  half = jax.tree.map(lambda x: x[:8], batch)
  padded = batch.replace(valid=np.arange(16) < 8)
  assert total(model, params, padded) == pytest.approx(float(total(model, params, half)), rel=1e-5)


def test_dropout_depends_on_the_slot_and_the_step_alone(small_config, spec, batch):
  model, params = built(small_config, spec)
  logits = lambda b, key: np.asarray(model.apply(params, b, True, jax.random.key(key)).logits)
  reverse = jax.tree.map(lambda x: x[::-1], batch)
  np.testing.assert_allclose(logits(reverse, 1)[::-1], logits(batch, 1), atol=1e-6)
  assert np.abs(logits(batch, 2) - logits(batch, 1)).max() > 1e-3


def test_sequence_padding_leaves_the_state():
  x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  long = np.concatenate([x, np.zeros((4, 3), np.float32)])
  enc = SequenceEncoder(8, 0.0)
  params = enc.init(jax.random.key(0), x, None)
  np.testing.assert_allclose(enc.apply(params, x, None), enc.apply(params, long, None), atol=1e-6)


# Trainable parameters of every size that a config in configs/ uses; a change here is a change of
# the method.
@pytest.mark.parametrize("width,expected", [(16, 12518), (128, 687878)])
def test_parameter_count(small_config, spec, width, expected):
  _, params = built(small_config, spec, width=width, heads=4)
  assert sum(x.size for x in jax.tree.leaves(params)) == expected


def test_unknown_model_is_refused_with_the_names(small_config, spec):
  with pytest.raises(ValueError, match="crl_mmnar"):
    built(small_config, spec, name="crl_mnar")


def test_patience_of_zero_means_no_early_stopping(spec):
  c = config_lib.override(config_lib.default(), ["train.joint.patience=0"])
  assert [stage.patience for stage in models.build(c, spec).stages] == [None, None]
