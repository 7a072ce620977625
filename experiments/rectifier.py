"""Does the rectifier find the bias of a base model that ignores the pattern?

    python -m experiments.rectifier [--out=DIR]        # a minute on 2 cores

The world is the simulated cohort's (only U, delta and y are drawn). The base model knows the
structured data and not the pattern, so its bias in a cell is gamma plus what the pattern says of U
(clinicians order for the severe). The true bias is the mean of P(y = 1) - f over a Monte Carlo
sample. Expected: 95% of the estimates within two standard errors of it, an error falling as n^-0.5,
and the example of the paper's appendix A.
"""

import csv
import pathlib

import numpy as np

from crl_jax import commands, config as config_lib
from crl_jax.data import cohort as cohort_lib, simulate
from crl_jax.posthoc import rectifier

SIZES = {1_000: 300, 10_000: 100, 100_000: 20, 1_000_000: 5}   # calibration rows: replicates
TRUTH_ROWS = 6_000_000
_CHUNK = 250_000


def draw(world, rng, n):
  """Draws n rows: P(y = 1) (n, T), predictions f (n, T) of the base model, pattern ids (n,)."""
  k = world.policy.shape[1]
  u_Nxk = rng.standard_normal((n, k), np.float32)
  pattern_N = cohort_lib.pattern_id(simulate.draw_observed(world, rng, u_Nxk))
  # A'x / sigma^2 = information U + information^(1/2) eps, the structured data
  information = world.precision[0]
  values, vectors = np.linalg.eigh(information)
  root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
  statistic_Nxk = u_Nxk @ information + rng.standard_normal((n, k), np.float32) @ root
  mean_Nxk = statistic_Nxk @ np.linalg.inv(np.eye(k) + information)
  return simulate.probability(world, u_Nxk, pattern_N), simulate.risk(world, mean_Nxk), pattern_N


def true_bias(world, rng, rows):
  """E[P(y = 1) - f | pattern] (T, 2^M) over `rows` draws, and its standard error; NaN for patterns
  not drawn."""
  cells = world.gamma.shape
  n, total, squares = (np.zeros(cells) for _ in range(3))
  for _ in range(-(-rows // _CHUNK)):
    p, f, pattern = draw(world, rng, _CHUNK)
    for t in range(cells[0]):
      r = (p - f)[:, t]
      for sums, values in ((n, np.ones_like(r)), (total, r), (squares, r**2)):
        sums[t] += np.bincount(pattern, values, cells[1])
  with np.errstate(invalid="ignore"):
    return total / n, np.sqrt(squares / n - (total / n)**2) / np.sqrt(n)


def sweep(world, bias_TxP, config, sizes, seed=0):
  """Returns a dict per calibration size: coverage of the cells by two standard errors and by the
  95% interval, root mean square error of gamma raw and shrunk, and the Brier scores of new rows
  before and after correction."""
  lines = []
  for n, replicates in sizes.items():
    hits, inside, error, shrunk, before, after = [], [], [], [], [], []
    for replicate in range(replicates):
      rng = np.random.default_rng([seed, n, replicate])
      p, f, pattern = draw(world, rng, n)
      r = rectifier.fit(rng.random(p.shape) < p, f, pattern, np.arange(n), config, replicate)
      cell = bias_TxP[:, r.patterns]
      hits.append((np.abs(r.gamma - cell) <= 2 * r.se).ravel())
      inside.append(((r.lo <= cell) & (cell <= r.hi)).ravel())
      error.append((r.gamma - cell).ravel())
      shrunk.append((r.gamma_shrunk - cell).ravel())
      p, f, pattern = draw(world, rng, min(n, 20_000))
      brier = lambda q: ((q - p)**2 + p * (1 - p)).mean()   # expected over outcomes
      before.append(brier(f))
      after.append(brier(rectifier.apply(r, f, pattern)))
    rms = lambda e: float(np.sqrt(np.mean(np.concatenate(e)**2)))
    lines.append(dict(n=n, replicates=replicates, cells=sum(map(len, hits)),
                      within_2_se=float(np.concatenate(hits).mean()),
                      within_interval=float(np.concatenate(inside).mean()),
                      rmse=rms(error), rmse_shrunk=rms(shrunk), rmse_root_n=rms(error) * n**0.5,
                      brier=float(np.mean(before)), brier_rectified=float(np.mean(after)),
                      harmed=float(np.mean(np.array(after) > np.array(before)))))
  return lines


def slope(lines):
  """Exponent of the error in n, by least squares on logs."""
  return float(
      np.polyfit(np.log([x["n"] for x in lines]), np.log([x["rmse"] for x in lines]), 1)[0])


def appendix(config):
  """The paper's appendix A: pattern 'no text', base prediction 0.30, residual +0.08. Returns the
  corrected 0.30."""
  n = 10_000
  y = (np.arange(n) % 100 < 38).astype(float)[:, None]
  r = rectifier.fit(y, np.full((n, 1), 0.30), np.ones(n), np.arange(n), config, 0)
  return float(rectifier.apply(r, np.array([[0.30]]), [1])[0, 0])


def figure(path, lines):
  """Error and coverage over n."""
  from matplotlib import figure as figure_lib
  fig = figure_lib.Figure(figsize=(8, 3.2), layout="constrained")
  left, right = fig.subplots(1, 2)
  n = np.array([x["n"] for x in lines])
  left.loglog(n, [x["rmse"] for x in lines], "o-", label="gamma")
  left.loglog(n, [x["rmse_shrunk"] for x in lines], "s-", label="gamma, shrunk")
  left.loglog(n, lines[0]["rmse"] * np.sqrt(n[0] / n), "k--", lw=1, label="$1/\\sqrt{n}$")
  left.set(xlabel="calibration rows", ylabel="root mean square error over cells")
  left.legend(frameon=False)
  right.semilogx(n, [x["within_2_se"] for x in lines], "o-", label="within two standard errors")
  right.semilogx(n, [x["within_interval"] for x in lines], "s-", label="within the 95% interval")
  right.axhline(0.95, color="k", ls="--", lw=1)
  right.set(xlabel="calibration rows", ylabel="share of cells", ylim=(0.85, 1.0))
  right.legend(frameon=False, loc="lower right")
  fig.savefig(path, dpi=150)


def main(given):
  config = config_lib.default()
  world = simulate.make_world(config.data.simulate)
  bias_TxP, se_TxP = true_bias(world, np.random.default_rng([3, config.seed]), TRUTH_ROWS)
  tasks, modalities = config.data.simulate.tasks, config.data.simulate.modalities
  seen = np.flatnonzero(~np.isnan(bias_TxP[0]))
  print("True bias of the base model by Monte Carlo (its standard error at most "
        f"{np.nanmax(se_TxP):.5f}); in parentheses gamma, the direct effect alone:")
  for p in seen:
    cells = "  ".join(f"{task} {bias_TxP[t, p]:+.3f} ({world.gamma[t, p]:+.3f})"
                      for t, task in enumerate(tasks))
    print(f"  {cohort_lib.pattern_name(p, modalities):<40} {cells}")
  lines = sweep(world, bias_TxP, config.rectifier, SIZES)
  print("\n".join(["", "rows       runs  cells  in 2 se  in 95%   rmse     shrunk   rmse*sqrt(n)  "
                       "Brier   rectified  harmed"]))
  for x in lines:
    print(f"{x['n']:<9}  {x['replicates']:<4}  {x['cells']:<5}  {x['within_2_se']:.3f}    "
          f"{x['within_interval']:.3f}    {x['rmse']:.4f}   {x['rmse_shrunk']:.4f}   "
          f"{x['rmse_root_n']:<12.2f}  {x['brier']:.4f}  {x['brier_rectified']:.4f}     "
          f"{x['harmed']:.3f}")
  print(f"\nerror falls as n^{slope(lines):.3f}\nappendix A: 0.30 -> "
        f"{appendix(config.rectifier):.2f}")
  if given.out:
    out = pathlib.Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "rectifier.csv", "w", newline="", encoding="utf-8") as file:
      writer = csv.DictWriter(file, lines[0])
      writer.writeheader()
      writer.writerows(lines)
    figure(out / "rectifier.png", lines)
    print(f"written: {out / 'rectifier.csv'}, {out / 'rectifier.png'}")


if __name__ == "__main__":
  commands.path_flag("out", "Folder for rectifier.csv and rectifier.png.")
  commands.run(main, "experiments.rectifier")
