"""The hierarchical correction: each level finds what it is for, none is taken that does not pay,
and no patient's label has a part in his own correction."""

import numpy as np
import pytest
from scipy import optimize

from crl_jax import posthoc
from crl_jax.posthoc import hierarchy, logits

MODALITIES = 3
sigmoid = logits.sigmoid


def world(n=1500, seed=0, shift=0.0, slope=1.0, bits=(0, 0, 0), effects=0.0):
  """(y, p, pattern (n, 3), patient) and P(y = 1); the predictor knows neither of the changes."""
  rng = np.random.default_rng(seed)
  pattern = rng.random((n, MODALITIES)) < 0.6
  logit = 1.2 * rng.normal(size=n) - 1
  effect = effects * np.random.default_rng(9).choice([-1, 1], 8)
  truth = sigmoid(slope * logit + shift + pattern @ np.array(bits, float)
                  + effect[pattern @ [1, 2, 4]])
  y = (rng.random(n) < truth).astype(float)
  return (y, sigmoid(logit), pattern.astype(float), np.arange(n)), truth


def brier(found, truth, p):
  """Of new rows: (after, before) less that of the truth."""
  return np.mean((found - truth)**2), np.mean((p - truth)**2)


@pytest.mark.parametrize("change, level", [
    (dict(shift=-0.7), "intercept"), (dict(slope=0.5), "platt"),
    (dict(bits=(1.0, -1.0, 0.5)), "modalities"),
    (dict(effects=1.0), "patterns")])
def test_each_level_is_taken_for_what_it_is_for(change, level):
  (y, p, pattern, patient), _ = world(3000, **change)
  found = posthoc.rectify(y, p, pattern, patient)
  levels = found.correction.levels
  # what lies above costs little here, what lies below cannot do it
  assert sum(levels[one] for one in hierarchy.LEVELS[hierarchy.LEVELS.index(level):]) > 0.95
  assert levels[level] > 0.2
  (_, p, pattern, _), truth = world(3000, seed=1, **change)
  after, before = brier(found.correction(p, pattern), truth, p)
  assert after < 0.15 * before and found.gain["log_loss"]["lo"] > 0


def test_a_calibrated_predictor_is_not_harmed():
  """Twenty sites of 300 patients: on average less than 0.0005 of the Brier score is lost."""
  lost = []
  for seed in range(20):
    (y, p, pattern, patient), _ = world(300, seed=seed)
    found = posthoc.rectify(y, p, pattern, patient, seed)
    (_, p, pattern, _), truth = world(3000, seed=100 + seed)
    lost.append(brier(found.correction(p, pattern), truth, p)[0])
  assert np.mean(lost) < 5e-4


def test_no_label_has_a_part_in_its_own_correction():
  """A fold's labels turned over leave its corrected probabilities as they are, to the bit; the
  weights are chosen without them too."""
  (y, p, pattern, patient), _ = world(600, shift=-0.5, effects=0.5)
  patient = patient // 2
  before = posthoc.rectify(y, p, pattern, patient, 3)
  _, dense = np.unique(patient, return_inverse=True)
  fold = (np.random.default_rng([5, 3]).permutation(300) % hierarchy.FOLDS)[dense]
  for k in range(hierarchy.FOLDS):
    other = posthoc.rectify(np.where(fold == k, 1 - y, y), p, pattern, patient, 3)
    np.testing.assert_array_equal(other.p[fold == k], before.p[fold == k])
    assert not np.array_equal(other.p[fold != k], before.p[fold != k])


def test_few_patients_buy_one_shift_and_fewer_buy_nothing():
  (y, p, pattern, patient), _ = world(99, shift=-2.5, effects=1.0)
  y[:20] = 1
  found = posthoc.rectify(y, p, pattern, patient)
  assert found.correction.levels.keys() == {"none", "intercept"} and found.patients == 99
  twice = posthoc.rectify(*(np.concatenate([v, v]) for v in (y, p, pattern, patient)))
  assert twice.patients == 99 and len(twice.tried) == len(found.tried)   # patients count, not rows
  y[9:] = 0
  found = posthoc.rectify(y, p, pattern, patient)   # nine patients with the outcome
  assert len(found.tried) == 1 and found.correction.levels == {"none": 1}
  np.testing.assert_array_equal(found.p, p)
  empty = posthoc.rectify(np.full(5, np.nan), p[:5], pattern[:5], patient[:5])
  assert np.isnan(empty.p).all() and empty.correction.levels == {"none": 1} and empty.patients == 0
  np.testing.assert_array_equal(empty.correction(p, pattern), p)


def test_undefined_outcomes_count_in_nothing():
  (y, p, pattern, patient), _ = world(400, shift=-0.7)
  hidden = y.copy()
  hidden[300:] = np.nan
  alone = posthoc.rectify(y[:300], p[:300], pattern[:300], patient[:300])
  found = posthoc.rectify(hidden, p, pattern, patient)
  np.testing.assert_array_equal(found.p[:300], alone.p)
  assert np.isnan(found.p[300:]).all() and found.tried == alone.tried


def test_the_interval_is_by_patient():
  (y, p, pattern, patient), _ = world(500, shift=-0.7)
  width = lambda found: found.gain["brier"]["hi"] - found.gain["brier"]["lo"]
  repeat = lambda values: np.repeat(values, 4, 0)
  one = posthoc.rectify(y, p, pattern, patient)
  same = posthoc.rectify(*map(repeat, (y, p, pattern, patient)))
  # four copies of a patient tell no more
  assert width(same) == pytest.approx(width(one), rel=0.3)
  # and buy no more of a correction
  given, _ = world(300, 1, shift=-0.15)
  one, same = posthoc.rectify(*given), posthoc.rectify(*map(repeat, given))
  assert 0.2 < one.correction.levels["none"] < 0.8
  assert same.correction.levels == pytest.approx(one.correction.levels, abs=0.05)


def test_a_pattern_never_seen_has_no_term_of_its_own_and_ids_serve_as_bits_do():
  (y, p, pattern, patient), _ = world(3000, effects=1.0)
  seen = pattern.any(1)
  found = posthoc.rectify(y[seen], p[seen], pattern[seen], patient[seen])
  new = np.zeros((1, MODALITIES))
  logit = np.log(0.3 / 0.7)
  weight = found.correction.weight
  assert found.correction([0.3], new)[0] == pytest.approx(
      sigmoid(logit + weight[0] + weight[1] * (logit - found.correction.centre)))
  names = np.array(["abcdefgh"[int(i)] for i in pattern @ [1, 2, 4]])
  by_id = posthoc.rectify(y, p, names, patient)
  by_bits = posthoc.rectify(y, p, pattern, patient)
  assert by_id.correction.level == by_bits.correction.level == "patterns"
  assert "modalities" not in {row["level"] for row in by_id.tried}
  np.testing.assert_allclose(by_id.correction(p, names), by_bits.correction(p, pattern), atol=0.05)
  assert by_id.correction([0.3], ["never"]).shape == (1,)
  with pytest.raises(ValueError, match="not told as those"):
    by_id.correction(p, pattern)


def test_estimates_have_the_largest_posterior():
  (y, p, pattern, _), _ = world(200, shift=-0.5, bits=(1, 0, 0))
  offset, sd = logits.of(p), np.array([1.0, 1.0, 0.3, 0.3, 0.3])
  design = np.column_stack([np.ones(200), offset + 1, pattern])
  def loss(weight, design=design, sd=sd):
    return (logits.log_loss(y, offset + design @ weight).sum()
            + (weight**2 / sd**2).sum() / 2)
  slow = optimize.minimize(loss, np.zeros(5), tol=1e-10).x
  np.testing.assert_allclose(logits.newton(y, offset, design, sd), slow, atol=1e-4)
  slot = (pattern @ [1, 2, 4]).astype(int)
  columns = np.eye(8)[slot]
  slow = optimize.minimize(loss, np.zeros(8), (columns, np.full(8, 0.3)), tol=1e-10).x
  np.testing.assert_allclose(hierarchy._effects(y, offset, slot, 0.3, 8), slow, atol=1e-4)


@pytest.mark.parametrize("change, words", [
    (dict(y=[2., 0., 1.]), "1 of 3 outcomes"), (dict(p=[0.1, 1.2, np.nan]), "2 of 3 predictions"),
    (dict(patient=[1, 2]), "must be"), (dict(pattern=np.full((3, 2), 0.5)), "6 of 6 bits")])
def test_what_cannot_be_is_refused_with_its_count(change, words):
  given = dict(y=[0., 1., np.nan], p=[0.1, 0.2, 0.3], pattern=[1, 2, 3], patient=[1, 2, 3]) | change
  with pytest.raises(ValueError, match=words):
    posthoc.rectify(**given)
