"""Effects from pseudo-outcomes: learned, ranked in the right direction, corrected by pattern where
that helps, and seeing nothing but phi."""

import dataclasses

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data.cohort import Cohort
from crl_jax.policy import data, effects, representation

N = 900


def config(**changes):
  c = config_lib.default().copy_and_resolve_references().unlock()
  c.policy.update(changes)
  c.policy.net.update(dict(width=8, learning_rate=1e-2, batch_size=64, epochs=15))
  return c


@pytest.fixture(scope="module")
def rows():
  """Rows whose effect is -1 + labs_0, of a randomised treatment; (phi, Rows, effect)."""
  rng = np.random.default_rng(0)
  observed = np.stack([np.ones(N, bool), rng.random(N) < 0.5], 1)
  labs = rng.standard_normal((N, 2)).astype(np.float32)
  note = (rng.standard_normal((N, 3)) * observed[:, 1:]).astype(np.float32)
  ids = np.arange(N, dtype=np.int64)
  phi = data.phi(Cohort(("labs", "note"), ("outcome",), {"labs": labs, "note": note}, observed,
                        np.full((N, 1), np.nan, np.float32), ids, ids, {},
                        {"labs": ["a", "b"], "note": ["c", "d", "e"]}))
  t = (rng.random(N) < 0.5).astype(float)
  effect = labs[:, 0] - 1.0
  y = labs[:, 1] + t * effect + 0.3 * rng.standard_normal(N)
  delta = effect + 0.5 * rng.standard_normal(N)
  fold = ids % 3
  folds = [{"test": np.flatnonzero(fold == k), "val": np.flatnonzero(fold == (k + 1) % 3),
            "train": np.flatnonzero(fold == (k + 2) % 3)} for k in range(3)]
  hold = {"train": np.flatnonzero(ids % 10), "val": np.flatnonzero(ids % 10 == 0)}
  return phi, effects.Rows(t, y, delta, delta, np.ones(N), phi.pattern, ids, hold, folds,
                           False), effect


def learned(rows, c, **changes):
  phi, of_rows, _ = rows
  r = representation.fit(phi, np.arange(N), c)
  return effects.learn(r, representation.transform(r, phi), of_rows._replace(**changes), c.policy,
                       0)


@pytest.mark.parametrize("kind", ["net", "linear"])
def test_each_learner_finds_the_effect_and_risk_is_the_untreated_outcome(rows, kind):
  phi, _, effect = rows
  found = effects.predict(learned(rows, config(effects=kind)), phi)
  names = {"aace", "plugin", "t_learner"} | ({"tarnet", "dragonnet"} if kind == "net" else set())
  assert set(found) == names | {"risk"}
  for name in names:
    assert np.sqrt(np.mean((found[name] - effect)**2)) < 0.45, name
  assert np.corrcoef(found["risk"], phi.inputs["labs"][:, 1])[0, 1] > 0.9


def test_a_better_direction_turned_around_gives_the_same_priorities(rows):
  phi, of_rows, _ = rows
  c = config(effects="linear")
  lower = effects.priorities(effects.predict(learned(rows, c), phi), False)
  turned = learned(rows, c, outcome=-of_rows.outcome, delta=-of_rows.delta,
                   delta_phi=-of_rows.delta_phi)
  higher = effects.priorities(effects.predict(turned, phi), True)
  for name in lower:
    np.testing.assert_allclose(higher[name], lower[name], atol=1e-9)
  assert lower["risk"] @ phi.inputs["labs"][:, 1] > 0   # the worst outcome first
  assert effects.priorities({"oracle_risk": np.ones(1), "oracle": np.ones(1)}, False) == {
      "oracle_risk": 1, "oracle": -1}


def test_inference_takes_phi_and_nothing_else(rows):
  phi, of_rows, _ = rows
  model = learned(rows, config(effects="linear"))
  with pytest.raises(TypeError, match="takes a policy.data.Phi"):
    effects.predict(model, dataclasses.replace(phi).__dict__)
  before = effects.predict(model, phi.take([5]))
  assert before["aace"] == pytest.approx(effects.predict(model, phi)["aace"][[5]])


def test_rows_without_weight_teach_nothing(rows):
  phi, of_rows, _ = rows
  weight = (np.arange(N) % 4 > 0).astype(float)
  c = config(effects="linear")
  a = learned(rows, c, weight=weight)
  b = learned(rows, c, weight=weight, delta=np.where(weight > 0, of_rows.delta, 1e6))
  np.testing.assert_array_equal(effects.predict(a, phi)["aace"], effects.predict(b, phi)["aace"])


@pytest.mark.parametrize("size, applied", [(0.0, False), (1.0, True)])
def test_a_correction_by_pattern_is_applied_where_it_helps(rows, size, applied):
  _, of_rows, _ = rows
  rng = np.random.default_rng(1)
  pattern = rng.integers(0, 8, N)
  own = size * np.linspace(-1, 1, 8)
  delta = own[pattern] + rng.standard_normal(N)
  found = effects.rectify(np.zeros(N), of_rows._replace(delta=delta, pattern=pattern))
  assert bool(found.applied) is applied
  f = effects.corrected(np.zeros(9), np.append(np.arange(8), 99), found)
  if applied:
    np.testing.assert_allclose(f[:8], own, atol=0.35)
    assert f[8] == found.table[-1] and abs(f[8]) < 0.4   # that of a pattern never seen
    assert np.abs(f[:8]).max() < np.abs([delta[pattern == p].mean() for p in range(8)]).max()
  else:
    assert not f.any() and found.gain < effects.SURE * found.se


def test_few_rows_are_not_corrected(rows, monkeypatch):
  monkeypatch.setattr(effects, "_FEWEST", N + 1)
  assert learned(rows, config(effects="linear")).correction is None


def test_effects_given_the_annotations(rows):
  _, of_rows, effect = rows
  c = config(effects="linear")
  x = np.stack([effect, np.ones(N)], 1)
  found = effects.values_on_annotations(effects.on_annotations(x, of_rows, c.policy, 0), x)
  assert np.sqrt(np.mean((found - effect)**2)) < 0.1
