"""A predictor goes to another hospital: what does each correction gain there, by labelled patients?

    python -m experiments.new_site [--replicates=10]

Nothing is trained: the predictor is the truth of the old site, so that what differs is known.
Worlds: how the new site differs. Numbers: expected Brier score of 20,000 new rows less that of the
truth, times 10,000, mean over replicates; half of them with four modalities, half with six.
"""

import itertools

import numpy as np
from absl import flags

from crl_jax import commands, config as config_lib
from crl_jax.posthoc import hierarchy, rectifier

SIZES = (300, 1000, 4000)
WORLDS = {   # shift, slope, sd of the change of pattern effects, of a term of each modality
    "the same": {}, "prevalence": dict(shift=-0.7), "overconfident": dict(slope=0.6),
    "patterns a little": dict(patterns=0.3), "patterns": dict(patterns=0.7),
    "modalities": dict(modalities=0.5), "everything": dict(shift=-0.5, slope=0.8, patterns=0.4,
                                                           modalities=0.3),
    "rare, the same": dict(base=-3.3), "rare, patterns": dict(base=-3.3, patterns=0.7)}


class World:
  """Patterns of M modalities, and how the new site differs."""

  def __init__(self, rng, count, shift=0.0, slope=1.0, patterns=0.0, modalities=0.0, base=-1.3):
    bits = np.array(list(itertools.product((0, 1), repeat=count)))[:, ::-1]
    self.count, self.shift, self.slope, self.base = count, shift, slope, base
    self.old = 0.5 * rng.normal(size=len(bits))
    terms = bits @ (modalities * rng.normal(size=count))
    self.new = self.old + patterns * rng.normal(size=len(bits)) + terms - terms.mean()

  def draw(self, rng, n):
    """(bits (n, M), pattern ids, predictions, P(y = 1)) of n patients of the new site."""
    bits = rng.random((n, self.count)) < 0.6
    pattern = bits @ (1 << np.arange(self.count))
    seen = self.base + 1.2 * rng.normal(size=n)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    return (bits.astype(float), pattern, sigmoid(seen + self.old[pattern]),
            sigmoid(self.shift + self.slope * (seen + self.new[pattern])))


def corrections(y, bits, pattern, p, seed):
  """name -> (p, bits, pattern) of new rows -> their corrected probabilities."""
  from sklearn.linear_model import LogisticRegression
  logit = lambda p: np.log(p) - np.log1p(-p)
  def logistic(columns, c):
    model = LogisticRegression(C=c).fit(columns(p, bits), y)
    return lambda p, bits, pattern: model.predict_proba(columns(p, bits))[:, 1]
  def shift(p, bits, pattern, by):
    return 1 / (1 + np.exp(-logit(p) - by))
  by = _root(lambda by: (y - shift(p, bits, pattern, by)).sum())
  ours = hierarchy.rectify(y, p, bits, np.arange(len(y)), seed).correction
  shipped = rectifier.fit(y[:, None], p[:, None], pattern, np.arange(len(y)),
                          config_lib.default().rectifier, seed)
  return {
      "none": lambda p, bits, pattern: p,
      "intercept": lambda p, bits, pattern: shift(p, bits, pattern, by),
      "Platt": logistic(lambda p, bits: logit(p)[:, None], np.inf),
      "logistic + bits": logistic(lambda p, bits: np.column_stack([logit(p), bits]), 1.0),
      "rectifier of a run": lambda p, bits, pattern: rectifier.apply(
          shipped, p[:, None], pattern)[:, 0],
      "hierarchy": lambda p, bits, pattern: ours(p, bits)}


def _root(falling):
  """Where a falling function of one number is 0, between -5 and 5."""
  from scipy import optimize
  return optimize.brentq(falling, -5, 5) if falling(-5) > 0 > falling(5) else 0.0


def study(replicates, sizes=SIZES, worlds=WORLDS, new=20_000):
  """Rows (world, n, {name: (replicates,) excess of the Brier score})."""
  for i, (name, differs) in enumerate(worlds.items()):
    for n in sizes:
      found = {}
      for replicate in range(replicates):
        rng = np.random.default_rng([i, n, replicate])
        world = World(rng, 4 + 2 * (replicate % 2), **differs)
        bits, pattern, p, truth = world.draw(rng, n)
        y = (rng.random(n) < truth).astype(float)
        if len(np.unique(y)) < 2:
          continue
        bits_new, pattern_new, p_new, truth = world.draw(rng, new)
        for who, correct in corrections(y, bits, pattern, p, replicate).items():
          error = np.mean((correct(p_new, bits_new, pattern_new) - truth)**2)
          found.setdefault(who, []).append(error)
      yield name, n, {who: np.array(errors) for who, errors in found.items()}


def verdict(lines):
  """What the task asks of the hierarchy, counted over (world, n)."""
  ours = [(found["hierarchy"].mean(), found["none"].mean(),
           min(errors.mean() for who, errors in found.items() if who != "hierarchy"))
          for _, _, found in lines]
  worst = max(mine - none for mine, none, _ in ours)
  near = sum(mine <= best + 1e-3 for mine, _, best in ours)
  return (f"hierarchy: worse than no correction by {worst:+.5f} at most; within .001 of the best "
          f"of the others in {near} of {len(ours)}")


def main(given):
  lines = []
  for world, n, found in study(given.replicates):
    if not lines:
      print(f"{'world':20}{'n':>6}" + "".join(f"{who:>20}" for who in found))
    lines.append((world, n, found))
    print(f"{world:20}{n:6}" + "".join(f"{1e4 * errors.mean():20.1f}" for errors in found.values()),
          flush=True)
  print(verdict(lines))


if __name__ == "__main__":
  flags.DEFINE_integer("replicates", 10, "Sites drawn of each world and size.", lower_bound=2)
  commands.run(main, "experiments.new_site")
