"""The simulated series and images are the world that simulate_kinds.py writes down, and the
reference is the best prediction, against brute force on a grid of U."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, simulate, simulate_kinds


def _config(**overrides):
  c = config_lib.default()
  c.data.simulate.update(dict(
      rows=300, latent=2, modalities=("labs", "vitals", "xray"),
      kinds=("vector", "series", "image"), sizes=(3, 2, 12), visible=(1, 2, 2),
      noise=(1.5, 2.0, 2.0), availability=(0.8, 0.6, 0.7), tasks=("icu", "mortality"),
      prevalence=(0.3, 0.2), steps=6, cells=1.0, draws=1024, effect=0.15, rho=1.5) | overrides)
  return c


@pytest.fixture(scope="module")
def made():
  """(cohort, world) of a world of two dimensions."""
  c = _config()
  return simulate.build(c), simulate.make_world(c.data.simulate)


def test_the_cohort_is_sound_and_says_what_it_holds(made):
  cohort, world = made
  info = cohort_lib.validate(cohort).info
  assert cohort.kinds == {"vitals": "series", "xray": "image"}
  assert cohort.features["vitals"] == ["hours", "vitals_0", "vitals_1"]
  assert cohort.inputs["vitals"].shape == (300, 6, 3) and cohort.inputs["xray"].dtype == np.uint8
  steps = (~np.isnan(cohort.inputs["vitals"][cohort.observed[:, 1], :, 0])).sum(1)
  assert set(steps) == set(range(2, 7))
  assert 0.5 < info["truth"]["effective_draws"] < 9
  assert not cohort.inputs["xray"][~cohort.observed[:, 2]].any()
  assert world.others[1].level.sum() == 1 and not world.precision[1:].any()


def test_the_best_predictions_are_those_of_a_grid(made):
  """p(U | all that was recorded) at 81 x 81 points, from the densities as they are written down."""
  cohort, world = made
  vitals, xray = world.others[1], world.others[2]
  u = np.stack(np.meshgrid(*[np.linspace(-5, 5, 81)] * 2), -1).reshape(-1, 2)
  shown = [np.roll(xray.template, shift, (1, 2)) for shift in xray.shifts]
  for i in range(60):
    log = -(u**2).sum(1) / 2
    for m in range(3):
      p = simulate.sigmoid(u @ world.policy[m] + world.intercept[m])
      log += np.log(p if cohort.observed[i, m] else 1 - p)
    if cohort.observed[i, 0]:
      x = cohort.inputs["labs"][i]
      log -= ((x - u @ world.loadings[0].T)**2).sum(1) / (2 * world.noise[0]**2)
    if cohort.observed[i, 1]:
      for time, *values in cohort.inputs["vitals"][i]:
        if np.isnan(time):
          continue
        phi = np.where(vitals.level, 1, 2 * time / 48 - 1)
        for v, value in enumerate(values):
          p = simulate.sigmoid(u @ vitals.policy[v] + vitals.intercept[v])
          log += np.log(1 - p if np.isnan(value) else p)
          if not np.isnan(value):
            log -= (value - u @ (vitals.loading[v] * phi))**2 / (2 * vitals.noise**2)
    if cohort.observed[i, 2]:
      x = (cohort.inputs["xray"][i, ..., 0].astype(float) - 128) / 25 * np.sqrt(1 + xray.noise**2)
      each = [-((x - np.tensordot(u, t, 1))**2).sum((1, 2)) / (2 * xray.noise**2) for t in shown]
      log += np.logaddexp.reduce(each)
    w = np.exp(log - log.max())
    p = simulate.probability(world, u.astype(np.float32), np.repeat(cohort.pattern[i], len(u)))
    np.testing.assert_allclose(cohort.references["bayes"][i], w @ p / w.sum(), atol=6e-3)


def test_the_best_predictions_are_calibrated():
  cohort = simulate.build(_config(rows=6000, draws=64, cells=0.3))
  bayes, y = cohort.references["bayes"], cohort.labels
  for t in range(2):
    for rows in np.array_split(np.argsort(bayes[:, t]), 8):
      assert abs(bayes[rows, t].mean() - y[rows, t].mean()) < 4 * np.sqrt(0.25 / len(rows))


def test_a_linear_model_of_pixels_has_a_part_of_what_they_say():
  """Bumps of different shifts do not overlap: the mean over shifts is about a ninth of each."""
  image = simulate_kinds.image(np.random.default_rng(0), np.array([True, True]), 24, 2.0)
  flat = np.stack([np.roll(image.template, s, (1, 2)).reshape(2, -1) for s in image.shifts])
  alone = (flat[0]**2).sum(1)
  np.testing.assert_allclose(((flat**2).sum(2)), np.tile(alone, (9, 1)), rtol=1e-5)
  assert ((flat.mean(0)**2).sum(1) < 0.4 * alone).all()
  assert np.abs(image.template).max() == pytest.approx(1, abs=0.3)


def test_every_shift_is_drawn_and_can_be_told():
  rng = np.random.default_rng(0)
  image = simulate_kinds.image(rng, np.array([True, True]), 24, 0.2)
  out = np.empty((400, 24, 24, 1), np.uint8)
  said = image.draw(rng, rng.choice([-2.0, 2.0], (400, 2)), out)
  likelier = np.einsum("njk,nkl,njl->nj", said.statistic, np.linalg.inv(said.precision),
                       said.statistic).argmax(1)
  assert (np.bincount(likelier, minlength=9) > 25).all()
  best = said.statistic[np.arange(400), likelier]
  u = np.linalg.solve(said.precision, best[..., None])[..., 0]
  np.testing.assert_allclose(np.abs(u), 2, atol=0.35)


def test_points_and_weights_are_the_density():
  """Sums over weighted points against sums over a fine grid, of three densities of one dimension
  whose masses and curvatures at the mode differ."""
  z = simulate._normal_grid(256, 1)
  m, c, a = np.array([-6.0, 1.0, 8.0]), np.array([1.5]), np.array([-0.5])
  yes, no, precision = 9, 4, 0.7
  u, log = simulate_kinds.points(
      np.full((1, 1, 1, 1), precision), m[None, :, None], c[:, None], a,
      np.full((1, 1, 1), yes), np.full((1, 1, 1), no), z)
  grid = np.linspace(-20, 30, 200_001)
  h = c * grid + a
  density = np.exp(m[:, None] * grid - precision * grid**2 / 2 - yes * np.logaddexp(0, -h)
                   - no * np.logaddexp(0, h))
  w, g = np.exp(log[0] - log.max()), density / density.sum()
  np.testing.assert_allclose(w.sum(1) / w.sum(), g.sum(1), rtol=0.02)
  np.testing.assert_allclose((w * u[0, ..., 0]).sum(1) / w.sum(1),
                             (g * grid).sum(1) / g.sum(1), atol=0.01)


def test_other_kinds_leave_the_other_modalities_world_as_it_is():
  c, plain = _config(), _config(kinds=())
  one, other = (simulate.make_world(config.data.simulate) for config in (c, plain))
  for name in ("intercept", "policy", "direction", "offset", "gamma"):
    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
  np.testing.assert_array_equal(one.loadings[0], other.loadings[0])
  assert "effective_draws" not in simulate.build(_config(kinds=(), rows=20)).info["truth"]


@pytest.mark.parametrize("override, message", [
    (dict(kinds=("vector", "series")), "of each of 3 modalities"),
    (dict(kinds=("vector", "series", "video")), "two images at most"),
    (dict(sizes=(3, 2, 8)), "pixels of a side; at least 9"),
    (dict(steps=0), "steps must be positive"),
    (dict(mechanism="mar", availability=(0.5, 1.0, 0.5)), "which must be a vector"),
    (dict(cells=60.0, draws=64, rows=100, steps=24), "rest on 0.0.* raise draws, or lower cells")])
def test_what_cannot_work_is_refused(override, message):
  with pytest.raises(cohort_lib.CohortError, match=message):
    simulate.build(_config(**override))


def test_policies_have_vectors_alone():
  from crl_jax.policy import mmnar
  with pytest.raises(cohort_lib.CohortError, match="leave config.data.simulate.kinds empty"):
    mmnar.make(_config())
