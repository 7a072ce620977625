"""Cross-fitted residuals, and what can be said of them: a test of conditional independence and
contrasts adjusted for covariates, both with patients as clusters.

Residuals of both sides make the error of the two fits count as a product (Chernozhukov et al. 2018,
doi 10.1111/ectj.12097), so simple fits suffice.
"""

import functools

import numpy as np

from crl_jax.statistics import bootstrap

_Z = 1.959963984540054
_RIDGE = 1e-3   # of the linear fits, per row, for standardised columns
# inverse strength of the logistic fits' penalty: weak, it only keeps separated classes finite
_STRENGTH = 1.0
_DRAWS = 2000   # of the signs under a null
_PROBES = 50   # random vectors that a squared norm is taken from: it is right to about 1%
# patients whose signs are drawn together (8 MB), and how many such blocks are kept: those of as
# many patients as informative.study looks at, whose every test has the same signs
_BLOCK, _KEPT = 4096, 5


def deal(patient, folds, seed):
  """(N,) fold of each row; a patient's rows share theirs."""
  patients, who = np.unique(patient, return_inverse=True)
  order = np.random.default_rng([seed, 0x0D0]).permutation(len(patients))
  return (order % folds)[who]


def linear(x, targets, fold, rows=None, weight=None):
  """Cross-fitted ridge predictions (N, K) of `targets` (N, K) from `x` (N, D); fitted on `rows`
  (N,) bool of the other folds, each with its `weight` (N,)."""
  x1, found = _with_one(x), np.zeros(targets.shape)
  fitted, of_row = x1, targets
  if weight is not None:
    root = np.sqrt(weight)[:, None]
    fitted, of_row = x1 * root, targets * root
  for k, train, inverse, _ in _inverses(fitted, fold, rows):
    found[fold == k] = x1[fold == k] @ (inverse @ (fitted[train].T @ of_row[train]))
  return found


def _with_one(x):
  return np.concatenate([np.ones((len(x), 1)), x], 1)


def _inverses(x1, fold, rows):
  """Yields fold, (N,) training rows, inverse of their ridge Gram matrix, their Gram matrix."""
  for k in np.unique(fold):
    train = (fold != k) if rows is None else (fold != k) & rows
    if train.any():
      ridge = _RIDGE * train.sum() * np.diag([0.0] + [1.0] * (x1.shape[1] - 1))
      gram = x1[train].T @ x1[train]
      yield k, train, np.linalg.pinv(gram + ridge, hermitian=True), gram


def inflation(x, fold, rows=None):
  """How many times larger the variance of sum(e r) is than the sum of the squares (e r)^2 says,
  where e and r are cross-fitted residuals on `x` (N, D) of two things that have nothing to do with
  each other, r fitted and summed on `rows` (N,) bool.

  Every row's residuals hold the noise of the rows that their fits saw, so they are not independent.
  With e = (I - K) u, r = (I - L) v and independent noise u, v of unit variance, the variance of the
  sum is |(I - K)' (I - L)|^2 (Frobenius), and the squares' expectation sum (1 + h_i) (1 + l_i), h
  and l the rows' squared norms of K and L. It is about 1 + D / n times a small number.
  """
  x1, rows = _with_one(x), np.ones(len(x), bool) if rows is None else rows
  v = np.random.default_rng(0).choice([-1.0, 1.0], (len(x), _PROBES)) * rows[:, None]
  v = (v - linear(x, v, fold, rows)) * rows[:, None]
  back, norms = v.copy(), np.zeros((2, len(x)))   # (I - K)' (I - L) on the probes; h and l
  for norm, used in zip(norms, (None, rows)):
    for k, train, inverse, gram in _inverses(x1, fold, used):
      mine = fold == k
      weights = x1[mine] @ inverse
      norm[mine] = np.sum((weights @ gram) * weights, 1)
      if used is None:
        back[train] -= x1[train] @ (inverse @ (x1[mine].T @ v[mine]))
  squares = np.prod(1 + norms, axis=0)[rows].sum()
  return float(np.sum(back**2) / _PROBES / squares) if rows.any() else 1.0


def classes(x, label, fold, count, weight=None):
  """Cross-fitted probabilities (N, count) of the classes `label` (N,) in 0..count-1, by multinomial
  logistic regression on `x` (N, D), rows counting by `weight` (N,); their rates where x has no
  column."""
  from sklearn.linear_model import LogisticRegression
  found = np.zeros((len(label), count))
  for k in np.unique(fold):
    train, test = fold != k, fold == k
    seen = np.unique(label[train])
    if len(seen) < 2 or not x.shape[1]:
      each = np.ones(train.sum()) if weight is None else weight[train]
      found[np.ix_(test, seen)] = np.bincount(label[train], each, count)[seen] / each.sum()
      continue
    model = LogisticRegression(C=_STRENGTH, max_iter=300, tol=1e-4).fit(
        x[train], label[train], None if weight is None else weight[train])
    found[np.ix_(test, model.classes_)] = model.predict_proba(x[test])
  return found


def prediction_test(x, target, patient, fold, draws=_DRAWS, seed=0):
  """Tests that `x` (N, D) predicts `target` (N,) out of fold: T, the sum of the centred target
  times its cross-fitted ridge prediction, against T with every patient's sign drawn at random (the
  wild bootstrap of degenerate U-statistics: Dehling and Mikosch, J. Multivariate Anal. 51, 1994).

  Returns:
    {"p"}: the share of T as large or larger by chance; null with a "reason" where nothing varies.
  """
  e = target - target.mean()
  x = x - x.mean(0)
  x = x[:, x.std(0) > 1e-9]
  if not x.shape[1] or not e.any():
    return {"p": None, "reason": "nothing varies"}
  _, first, who = np.unique(patient, return_index=True, return_inverse=True)
  sums = np.stack([np.bincount(who, v) for v in (e[:, None] * x).T], 1)
  fold_C = fold[first]
  gram = {k: x[fold != k].T @ x[fold != k] for k in np.unique(fold)}
  inverse = {k: np.linalg.pinv(g + _RIDGE * np.sum(fold != k) * np.eye(len(g)), hermitian=True)
             for k, g in gram.items()}
  part = _signed(sums, fold_C, draws, seed)
  whole = sum(part.values())
  t = sum(np.sum(part[k] * (inverse[k] @ (whole - part[k])), 0) for k in gram)
  return {"p": float(np.mean(t >= t[0] - 1e-12 * abs(t[0])))}


def _signed(sums, fold, draws, seed):
  """fold -> (K, 1 + draws) totals of its patients' `sums` (C, K), each with its sign drawn at
  random, but for the first column: what was seen."""
  total = {k: np.zeros((sums.shape[1], draws + 1)) for k in np.unique(fold)}
  for start in range(0, len(sums), _BLOCK):
    rows = slice(start, start + _BLOCK)
    signs = _signs(start // _BLOCK, draws, seed)[:len(sums[rows])].astype(np.float64)
    for k, total_K in total.items():
      mine = fold[rows] == k
      total_K += sums[rows][mine].T @ (signs if mine.all() else signs[mine])
  return total


@functools.lru_cache(maxsize=_KEPT)
def _signs(block, draws, seed):
  """(_BLOCK, 1 + draws) int8 signs of a block of patients. One stream for all blocks: those of
  fewer patients are the first of those of more."""
  bits = np.random.PCG64([seed, 0x516])
  bits.advance(block * _BLOCK * (draws + 1) // 2)   # a sign takes half of a step
  signs = np.random.Generator(bits).integers(2, size=(_BLOCK, draws + 1), dtype=np.uint32)
  signs = 2 * signs.astype(np.int8) - 1
  signs[:, 0] = 1
  return signs


def score_test(e, r, patient, inflation=1.0):
  """Tests that residuals `e` (N,) and `r` (N, D) are uncorrelated in every column (the generalised
  covariance measure of Shah and Peters 2020, doi 10.1214/19-AOS1857, with D columns), the variance
  of a column's sum being `inflation` (D,) times that of its terms.

  Returns:
    {"statistic", "freedom", "p"}: Hotelling's T^2 of the patients' sums of e r, as F of (D, C - D),
    C patients; p is null with a "reason" where C <= D + 1 or nothing varies.
  """
  from scipy import special
  _, who = np.unique(patient, return_inverse=True)
  products = e[:, None] * r
  sums = np.stack([np.bincount(who, v) for v in products.T], 1) if r.shape[1] else np.zeros((0, 0))
  # directions in which nothing varies say nothing
  values, vectors = np.linalg.eigh(sums.T @ sums) if sums.size else (np.zeros(0), np.zeros((0, 0)))
  kept = values > 1e-9 * max(values.max(initial=0), 1e-300)
  d, c = int(kept.sum()), len(sums)
  if not d or c <= d + 1:
    return {"statistic": None, "freedom": d, "p": None,
            "reason": "nothing varies" if not d else f"{c} patients are too few for {d} columns"}
  total = (sums.sum(0) / np.sqrt(inflation)) @ vectors[:, kept]
  explained = min(float(np.sum(total ** 2 / values[kept])) / c, 1 - 1e-12)   # as an R^2
  f = explained / (1 - explained) * (c - d) / d
  return {"statistic": float(f), "freedom": d, "p": float(special.fdtrc(d, c - d, f))}


def contrast(y, d, patient, inflation=1.0):
  """Least squares of residuals `y` (N,) on residuals `d` (N, K), no intercept: coefficients, their
  covariance clustered by patient (as statsmodels corrects it) times `inflation`, and per column
  what a robustness value needs.

  Returns:
    dict: coefficient (K,), covariance (K, K), influence (C, K) of the C patients, whose products
    sum to the covariance, scale (K,) = sd(remaining y) / sd(d_k given the other columns), p of all
    coefficients being 0: the share of draws, with every patient's residuals under that null signed
    at random, that explain as many squares (the wild cluster bootstrap: Cameron, Gelbach and
    Miller 2008, doi 10.1162/rest.90.3.414). Wald's test has no such level where a column differs
    in few rows.
  """
  gram = d.T @ d
  inverse = np.linalg.pinv(gram)
  coefficient = inverse @ (d.T @ y)
  rest = y - d @ coefficient
  _, who = np.unique(patient, return_inverse=True)
  sums, null = (np.stack([np.bincount(who, v) for v in (e[:, None] * d).T], 1)
                for e in (rest, y))
  c, k = len(sums), d.shape[1]
  influence = sums @ inverse * np.sqrt(
      c / max(c - 1, 1) * (len(y) - 1) / max(len(y) - k, 1) * inflation)
  covariance = influence.T @ influence
  drawn = _signed(null, np.zeros(c), _DRAWS, 0)[0].T
  squares = np.sum(drawn @ inverse * drawn, 1)
  squares[1:] *= inflation
  scale = np.sqrt(rest @ rest * np.maximum(np.diag(inverse), 0))
  return dict(coefficient=coefficient, covariance=covariance, influence=influence, scale=scale,
              p=float(np.mean(squares >= squares[0] * (1 - 1e-12))))


def spread(effect, contrast, share):
  """(...,) standard deviation of effects (..., K) over rows, a share (K,) of which has each and the
  others none, the variance of `contrast`'s estimates taken out."""
  centre = np.diag(share) - np.outer(share, share)
  squares = np.einsum("...i,ij,...j", effect, centre, effect)
  return np.sqrt(np.maximum(squares - np.sum(centre * contrast["covariance"]), 0))


def part(whole, left, share, seed=0):
  """{"value", "lo", "hi"}: the spread of the effects of the contrast `left` over that of `whole`,
  of the same patients.

  The true effects are taken to be multiples of those seen, and the noise normal, of both contrasts
  together: the interval holds the parts under which one as large as that seen, and one as small,
  each have a probability above 2.5%. It needs a `whole` that is surely there.
  """
  k = len(share)
  influence = np.concatenate([whole["influence"], left["influence"]], 1)
  values, vectors = np.linalg.eigh(influence.T @ influence)
  noise = np.random.default_rng([seed, 0x9A7]).normal(size=(_DRAWS, 2 * k)) @ (
      np.sqrt(np.maximum(values, 0)) * vectors).T
  seen, kept = (float(spread(c["coefficient"], c, share)) for c in (whole, left))
  length = lambda c: spread(c["coefficient"], {"covariance": np.zeros((k, k))}, share)
  around = spread(whole["coefficient"] * seen / length(whole) + noise[:, :k], whole, share)
  effect = left["coefficient"] * seen / length(left)   # as large as the whole
  drawn = lambda part: np.divide(spread(part * effect + noise[:, k:], left, share), around,
                                 out=np.full(_DRAWS, np.inf), where=around > 0)
  return bootstrap.inverted(kept / seen, drawn)


def interval(value, se):
  """{"value", "lo", "hi"}, normal."""
  return {"value": float(value), "lo": float(value - _Z * se), "hi": float(value + _Z * se)}
