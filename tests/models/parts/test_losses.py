"""Every loss: the value by hand, equality with the loss on the unmasked subset, finite gradients
under the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models.parts import losses


def test_focal_by_hand_and_nan_labels():
  logits = jnp.array([[0.0, 2.0], [1.0, -1.0]])
  labels = jnp.array([[1.0, 0.0], [jnp.nan, 1.0]])
  alpha, gamma = jnp.array([0.25, 0.5]), jnp.array([2.0, 0.0])
  term = losses.focal(logits, labels, alpha, gamma)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  assert term.value[0, 0] == pytest.approx(-0.25 * 0.25 * np.log(0.5), rel=1e-6)
  assert term.value[0, 1] == pytest.approx(-0.5 * np.log(sigmoid(-2)), rel=1e-6)
  assert term.value[1, 1] == pytest.approx(-0.5 * np.log(sigmoid(-1)), rel=1e-6)
  expected = term.value[0, 0] + (term.value[0, 1] + term.value[1, 1]) / 2
  assert losses.reduce(term) == pytest.approx(float(expected), rel=1e-6)
  gradient = jax.grad(lambda z: losses.reduce(losses.focal(z, labels, alpha, gamma)))(logits)
  assert np.isfinite(gradient).all() and gradient[1, 0] == 0


@pytest.mark.parametrize("alpha,gamma", [(0.5, 0.0), (0.25, 2.0), (0.7, 0.5)])
def test_focal_probability_is_what_minimises_the_expected_focal_loss(alpha, gamma):
  a, g = jnp.array([alpha]), jnp.array([gamma])
  logit = jnp.linspace(-6, 6, 20001)[:, None]
  one, zero = (losses.focal(logit, jnp.full_like(logit, y), a, g).value for y in (1.0, 0.0))
  for p in (0.03, 0.3, 0.8):
    best = jnp.argmin(p * one + (1 - p) * zero)
    assert float(losses.focal_probability(logit[best], a, g)[0]) == pytest.approx(p, abs=2e-3)
  # never changes a ranking
  assert (np.diff(losses.focal_probability(logit, a, g)[:, 0]) >= 0).all()
  far = losses.focal_probability(jnp.array([[-60.0], [60.0]]), a, g)
  assert np.isfinite(far).all()


def test_reduce_ignores_a_column_without_rows():
  term = losses.masked(jnp.array([[1.0, 7.0], [3.0, 9.0]]), jnp.array([[1, 0], [1, 0]]))
  assert losses.reduce(term) == 2.0
  assert losses.reduce(term, jnp.array([0.5, 10.0])) == 1.0


def _info_nce_oracle(anchor, candidate, present, patient, tau):
  """The definition, one row and modality at a time."""
  unit = lambda x: x / np.linalg.norm(x)
  total = 0.0
  for m in range(anchor.shape[1]):
    rows = np.flatnonzero(present[:, m])
    values = []
    for i in rows:
      s = {j: unit(anchor[i, m]) @ unit(candidate[j, m]) / tau for j in rows
           if j == i or patient[j] != patient[i]}
      values.append(-np.log(np.exp(s[i]) / sum(map(np.exp, s.values()))))
    total += np.mean(values) if values else 0.0
  return total


@pytest.fixture
def pairs():
  rng = np.random.default_rng(1)
  present = rng.random((12, 3)) < 0.6
  present[:, 2] = False
  return rng.normal(size=(12, 3, 5)), rng.normal(size=(12, 3, 5)), present, np.arange(12) % 7


def test_info_nce_equals_its_definition(pairs):
  value = losses.reduce(losses.info_nce(*map(jnp.asarray, pairs), 0.1))
  assert value == pytest.approx(_info_nce_oracle(*pairs, 0.1), rel=1e-5)


def test_info_nce_ignores_absent_rows_and_has_finite_gradients(pairs):
  anchor, candidate, present, patient = map(jnp.asarray, pairs)
  loss = lambda a, c: losses.reduce(losses.info_nce(a, c, present, patient, 0.1))
  hole = jnp.where(present[..., None], candidate, jnp.nan)
  assert loss(anchor, hole) == loss(anchor, candidate)
  for gradient in jax.grad(loss, (0, 1))(jnp.where(present[..., None], anchor, 0.0),
                                         candidate * present[..., None]):
    assert np.isfinite(gradient).all() and (gradient[~present] == 0).all()


def test_info_nce_of_a_lonely_row_is_zero():
  x = jnp.ones((3, 1, 4))
  value = losses.info_nce(x, x, jnp.array([[True], [False], [False]]), jnp.arange(3), 0.1)
  assert losses.reduce(value) == 0
  same_patient = losses.info_nce(x, x, jnp.ones((3, 1), bool), jnp.zeros(3, int), 0.1)
  assert losses.reduce(same_patient) == 0   # no negative: a row of the same patient is none


def test_reconstruction_by_hand_and_stop_gradient():
  decoded, target = jnp.ones((1, 1, 4)), jnp.array([[[3.0, 1.0, 1.0, 1.0]]])
  one = jnp.ones((1, 1))
  assert losses.reduce(losses.reconstruction(decoded, target, one, one)) == 1.0
  loss = lambda t, stop: losses.reduce(losses.reconstruction(decoded, t, one, one, stop))
  assert (jax.grad(loss)(target, True) == 0).all()
  assert (jax.grad(loss)(target, False) != 0).any()


def test_missingness_and_classification_by_hand():
  observed = jnp.array([[True, False], [True, True]])
  logits = jnp.array([[0.0, 0.0], [9.0, 9.0]])
  term = losses.missingness(logits, observed, jnp.array([True, False]))
  assert losses.reduce(term) == pytest.approx(np.log(2), rel=1e-6)
  term = losses.classification(jnp.zeros((2, 4)), jnp.array([1, 2]), jnp.array([True, False]))
  assert losses.reduce(term) == pytest.approx(np.log(4), rel=1e-6)
