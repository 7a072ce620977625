"""The study of corrections at another hospital: what it counts, and that it can tell better from
worse."""

import numpy as np

from experiments import new_site


def test_the_truth_of_a_site_is_what_its_predictor_is_measured_by():
  world = new_site.World(np.random.default_rng(0), 4, shift=-0.7)
  bits, pattern, p, truth = world.draw(np.random.default_rng(1), 5000)
  logit = lambda p: np.log(p) - np.log1p(-p)
  np.testing.assert_allclose(logit(truth), logit(p) - 0.7, atol=1e-9)
  np.testing.assert_array_equal(pattern, bits @ [1, 2, 4, 8])
  (name, n, found), = new_site.study(2, (300,), {"prevalence": dict(shift=-1.0)}, 500)
  assert (name, n) == ("prevalence", 300) and all(len(errors) == 2 for errors in found.values())
  assert found["intercept"].mean() < 0.1 * found["none"].mean()
  assert found["hierarchy"].mean() < 0.3 * found["none"].mean()


def test_the_verdict_counts_lines():
  line = lambda none, platt, ours: ("w", 300, {"none": np.array([none]), "Platt": np.array([platt]),
                                               "hierarchy": np.array([ours])})
  text = new_site.verdict([line(0.01, 0.002, 0.0025), line(0.0, 0.003, 0.002)])
  assert "+0.00200 at most" in text and "in 1 of 2" in text
