"""The simulated cohort: a linear-Gaussian world whose best possible predictions and pattern effects
are known.

    U ~ N(0, I_k)                                             latent health
    x_m = A_m U + sigma_m eps                                 modalities
    P(delta_m = 1) = sigmoid(a_m + rho b_m . C)               clinicians' policy
    P(y_t = 1) = clip(g_t(U) + gamma_t[p], 0.01, 0.99)        outcomes, p the pattern id of delta

C, what the clinicians look at, is U under "mmnar"; under "mar" it is a summary of the first
modality that every row has. The world (A, a, b, g, gamma) is a function of `data.simulate` and its
key `world`; the patients are drawn from `seed`, so another seed gives other patients of the same
world. A modality may be a series or an image instead of a vector: simulate_kinds.py.
"""

import dataclasses

import numpy as np

from crl_jax.data import cohort as cohort_lib, simulate_kinds
from crl_jax.data.simulate_kinds import sigmoid

_CHUNK = 4096   # rows generated at a time
_LEAST = 0.05   # effective share of the draws behind any row's best prediction
_POINTS = 2**22  # numbers of the posterior of some rows at a time


@dataclasses.dataclass(frozen=True)
class World:
  """The constants of a simulated world: M modalities, k latent dimensions, T tasks.

  Attributes:
    loadings: M arrays A_m (F_m, k).
    noise: (M,) sigma_m.
    precision: (M, k, k) A_m' A_m / sigma_m^2, what observing modality m adds to the posterior
      precision of U.
    mechanism: "mmnar" | "mar" | "mcar".
    source: the modality that the policy reads under "mar"; -1 otherwise.
    intercept: (M,) a_m; +inf for a modality that everyone has, -inf for one that nobody has.
    policy: (M, k) rho b_m, where b_m . C has unit variance; zeros under "mcar".
    direction: (3, T, k) main direction of the risk of task t, and the two that interact.
    offset: (T,) of the log-odds, so that the mean of g_t is the prevalence.
    signal, interaction: scales of the log-odds and, relative to it, of the interaction.
    gamma: (T, 2^M) direct effect of the pattern on the probability.
    others: number of a modality that is no vector -> simulate_kinds.Series or Image; what is said
      of vectors above is not looked at.
  """
  loadings: tuple
  noise: np.ndarray
  precision: np.ndarray
  mechanism: str
  source: int
  intercept: np.ndarray
  policy: np.ndarray
  direction: np.ndarray
  offset: np.ndarray
  signal: float
  interaction: float
  gamma: np.ndarray
  others: dict = dataclasses.field(default_factory=dict)


def build(config, room=lambda name, shape, dtype: np.empty(shape, dtype)):
  """Returns the simulated `Cohort` of `config` (the whole tree; `data.simulate` and `seed` are
  read). `room` makes the array of a modality's inputs, in memory or on disk (cohort.on_disk).

  `references["bayes"]` holds E[y | x_observed, delta] per row and task; `info["truth"]["gamma"]`
  the true pattern effects, task -> pattern id -> value. U is in no input. Raises CohortError on
  settings that cannot work.
  """
  c = config.data.simulate
  world = make_world(c)
  rng = np.random.default_rng([1, config.seed])
  n, modalities = int(c.rows), tuple(c.modalities)
  others, evidence = world.others, {m: [] for m in world.others}
  inputs = [room(name, (n, *others[m].shape), others[m].dtype) if m in others else
            room(name, (n, world.loadings[m].shape[0]), np.float32)
            for m, name in enumerate(modalities)]
  statistic_MxNxk = np.empty((len(modalities), n, c.latent), np.float32)
  observed_NxM = np.empty((n, len(modalities)), bool)
  labels_NxT = np.empty((n, len(c.tasks)), np.float32)
  for rows, u_Nxk, statistic, observed in draw_rows(world, rng, inputs, evidence):
    statistic_MxNxk[:, rows], observed_NxM[rows] = statistic, observed
    p_NxT = probability(world, u_Nxk, cohort_lib.pattern_id(observed))
    labels_NxT[rows] = rng.random(p_NxT.shape) < p_NxT
  names = lambda stem, count: np.array([f"{stem}{i}" for i in range(count)])
  features = {m: names(f"{m}_", x.shape[1]).tolist() for m, x in zip(modalities, inputs)}
  kinds = {modalities[m]: kind for m, kind in enumerate(c.get("kinds", ())) if m in others}
  for m, kind in kinds.items():
    values = names(f"{m}_", c.sizes[modalities.index(m)]).tolist()
    features[m] = ["gray"] if kind == "image" else ["hours", *values]
  best_NxT, share = _bayes(world, statistic_MxNxk, observed_NxM, c.draws,
                           {m: simulate_kinds.joined(parts) for m, parts in evidence.items()})
  if others and share < _LEAST:
    raise cohort_lib.CohortError(
        f"The best predictions of a row rest on {share:.3f} of data.simulate.draws points, less "
        f"than {_LEAST}: raise draws, or lower cells, sizes or steps of the series, or rho.")
  ids = np.arange(n, dtype=np.int64)
  return cohort_lib.Cohort(
      modalities=modalities, tasks=tuple(c.tasks), inputs=dict(zip(modalities, inputs)),
      observed=observed_NxM, labels=labels_NxT, row_id=ids, patient_id=ids.copy(),
      groups=dict(sex=rng.choice(["female", "male"], n),
                  age_band=rng.choice(["18-44", "45-64", "65-79", "80+"], n,
                                      p=[0.2, 0.3, 0.3, 0.2]),
                  hospital=rng.choice(names("hospital_", 12), n)),
      features=features, kinds=kinds, references=dict(bayes=best_NxT),
      info=dict(truth=dict(gamma={task: {str(p): float(world.gamma[t, p]) for p in _possible(world)}
                                  for t, task in enumerate(c.tasks)},
                           **({"effective_draws": share} if others else {}))))


def make_world(c):
  """Returns the `World` of `c` (`config.data.simulate`); raises CohortError on settings that cannot
  work."""
  _check(c)
  rng = np.random.default_rng([0, c.world])
  k, sizes, rates = c.latent, c.sizes, np.array(c.availability, float)
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
  # Every modality shows some latent dimensions, more or less clearly, and not the others: a missing
  # one is missed.
  clarity_Mxk = np.stack([rng.permuted(np.arange(k) < v) for v in c.visible]) * rng.uniform(
      0.5, 1.5, (len(sizes), k))
  # a coordinate of A_m U has variance 1 on average
  clarity_Mxk /= np.linalg.norm(clarity_Mxk, axis=1, keepdims=True)
  loadings = tuple((rng.standard_normal((f, k)) * s).astype(np.float32)
                   for f, s in zip(sizes, clarity_Mxk))
  noise_M = np.array(c.noise, np.float32)
  precision_Mxkxk = np.stack([a.T.astype(float) @ a / s**2 for a, s in zip(loadings, noise_M)])

  # Tasks share a severity, and clinicians order for the severe: that is what makes missingness
  # informative.
  severity_k = unit(rng.standard_normal(k))
  main_Txk = unit(0.7 * severity_k + 0.7 * unit(rng.standard_normal((len(c.tasks), k))))
  direction_3xTxk = np.concatenate([main_Txk[None],
                                    unit(rng.standard_normal((2, len(c.tasks), k)))])
  policy_Mxk = unit(0.5 * severity_k + unit(rng.standard_normal((len(sizes), k))))
  gamma_TxP = rng.uniform(-c.effect, c.effect, (len(c.tasks), 2**len(sizes)))
  source = -1
  if c.mechanism == "mar":
    source = int(np.argmax(rates >= 1))
    # the summary A'x / sigma^2 = p U + p^(1/2) eps has covariance p^2 + p
    p = precision_Mxkxk[source]
    policy_Mxk /= np.sqrt(np.einsum("mk,kl,ml->m", policy_Mxk, p @ p + p, policy_Mxk))[:, None]
  others = {}
  for m, kind in enumerate(c.get("kinds", ())):
    own = np.random.default_rng([2, c.world, m])   # the rest of the world stays as it is
    if kind == "series":
      others[m] = simulate_kinds.series(own, loadings[m], noise_M[m], c.steps, c.cells)
    elif kind == "image":
      others[m] = simulate_kinds.image(own, loadings[m].any(0), sizes[m], noise_M[m])
  if source in others:
    raise cohort_lib.CohortError("config.data.simulate.mechanism 'mar' reads the first modality "
                                 "with availability 1, which must be a vector.")
  precision_Mxkxk[list(others)] = 0
  rho = 0.0 if c.mechanism == "mcar" else c.rho
  nodes, weights = np.polynomial.hermite_e.hermegauss(64)
  weights /= weights.sum()
  intercept_M = bisect(lambda a: sigmoid(a[:, None] + rho * nodes) @ weights, rates)

  patterns = np.arange(2**len(sizes))
  bits_PxM = (patterns[:, None] >> np.arange(len(sizes)) & 1).astype(bool)
  share_P = np.where(bits_PxM, rates, 1 - rates).prod(axis=1)
  # effects are deviations: the prevalence stays about where it was asked
  gamma_TxP -= gamma_TxP @ share_P[:, None]
  world = World(
      loadings, noise_M, precision_Mxkxk, c.mechanism, source, intercept_M.astype(np.float32),
      (rho * policy_Mxk).astype(np.float32), direction_3xTxk.astype(np.float32),
      np.zeros(len(c.tasks), np.float32), float(c.signal), float(c.interaction), gamma_TxP, others)
  score_DxT = _score(world, *(_normal_grid(4096, k) @ np.moveaxis(world.direction, 2, 1)))
  offset_T = bisect(lambda b: sigmoid(b + score_DxT).mean(axis=0), np.array(c.prevalence, float))
  return dataclasses.replace(world, offset=offset_T.astype(np.float32))


def draw_rows(world, rng, inputs, evidence=None):
  """Fills `inputs`, M arrays (N, F_m), with rows of the world, zero where unobserved;
  `evidence`: to the list of each of world.others its simulate_kinds.Evidence is appended.

  Yields, some rows at a time: their slice, U (n, k), what each x_m says about U (M, n, k), see
  posterior(), and delta (n, M).
  """
  n, k = len(inputs[0]), world.policy.shape[1]
  for lo in range(0, n, _CHUNK):
    rows = slice(lo, min(lo + _CHUNK, n))
    u_Nxk = rng.standard_normal((rows.stop - lo, k), np.float32)
    statistic_MxNxk = np.zeros((len(inputs), *u_Nxk.shape), np.float32)
    for m, (x, loading) in enumerate(zip(inputs, world.loadings)):
      if m in world.others:
        evidence[m].append(world.others[m].draw(rng, u_Nxk, x[rows]))
        continue
      rng.standard_normal(out=x[rows], dtype=np.float32)
      x[rows] *= world.noise[m]
      for j in range(k):   # no matrix product: its rounding depends on the number of threads
        x[rows] += u_Nxk[:, j, None] * loading[:, j]
      statistic_MxNxk[m] = x[rows] @ loading / world.noise[m]**2
    seen = u_Nxk if world.source < 0 else statistic_MxNxk[world.source]
    observed_NxM = draw_observed(world, rng, seen)
    for m, x in enumerate(inputs):
      x[rows][~observed_NxM[:, m]] = 0
    yield rows, u_Nxk, statistic_MxNxk, observed_NxM


def draw_observed(world, rng, seen_Nxk):
  """Draws delta (N, M) bool from the policy, given what the clinicians look at."""
  p_NxM = sigmoid(seen_Nxk @ world.policy.T + world.intercept)
  return rng.random(p_NxM.shape, np.float32) < p_NxM


def risk(world, u_Nxk):
  """g_t(U) (N, T): the probability of the outcome before the direct effect of the pattern."""
  return sigmoid(world.offset + _score(world, *(u_Nxk @ np.moveaxis(world.direction, 2, 1))))


def probability(world, u_Nxk, pattern_N):
  """P(y_t = 1 | U, p) (N, T), the model equation."""
  return np.clip(risk(world, u_Nxk) + world.gamma.T[pattern_N], 0.01, 0.99)


def bayes(world, statistic_MxNxk, observed_NxM, draws, evidence={}):
  """E[y_t | x_observed, delta] (N, T) float32, the best prediction there can be; arguments as of
  posterior()."""
  return _bayes(world, statistic_MxNxk, observed_NxM, draws, evidence)[0]


def _bayes(world, statistic_MxNxk, observed_NxM, draws, evidence):
  """(bayes(), the least effective number of points behind a row, relative to `draws`)."""
  out_NxT = np.empty((len(observed_NxM), len(world.offset)), np.float32)
  axes_Vxk = world.direction.reshape(-1, world.direction.shape[-1])
  share = np.inf
  for rows, p, v_VxNxD, weight_NxD in posterior(world, axes_Vxk, statistic_MxNxk, observed_NxM,
                                                draws, evidence):
    score = _score(world, *v_VxNxD.reshape(3, -1, *weight_NxD.shape))
    y_TxNxD = (sigmoid(score + world.offset[:, None, None]) +
               world.gamma[:, p, None, None].astype(np.float32))
    np.clip(y_TxNxD, 0.01, 0.99, out=y_TxNxD)
    total_N = weight_NxD.sum(axis=1)
    out_NxT[rows] = ((y_TxNxD * weight_NxD).sum(axis=2) / total_N).T
    share = min(share, float((total_N**2 / (weight_NxD**2).sum(axis=1)).min()) / draws)
  return out_NxT, share


def posterior(world, axes_Vxk, statistic_MxNxk, observed_NxM, draws, evidence={}):
  """Points of U given x_observed and delta, by their projections on V axes.

  U | x_observed is Gaussian, its covariance the same for all rows of a pattern; `draws` points of
  it are weighted by P(delta | U) (spec: importance weighting). Under "mar" and "mcar" delta depends
  on nothing but observed values, so the weights are constant and drop out.

  Args:
    axes_Vxk: directions.
    statistic_MxNxk: A_m' x_m / sigma_m^2, all that x_m says about U; ignored where unobserved.
    observed_NxM: delta.
    draws: a power of two, D, of each combination of the images' shifts.
    evidence: of each of world.others its simulate_kinds.Evidence.
  Yields:
    indices of n rows of one pattern, its id, projections (V, n, D) and weights (n, D).
  """
  k, axes = axes_Vxk.shape[1], len(axes_Vxk)
  z_Dxk = _normal_grid(draws, k)
  if world.others:
    yield from _by_row(world, axes_Vxk, statistic_MxNxk, observed_NxM, z_Dxk, evidence)
    return
  # U enters through these projections only
  axes_Vxk = np.concatenate([axes_Vxk, world.policy])
  pattern_N = cohort_lib.pattern_id(observed_NxM)
  for p in np.unique(pattern_N):
    rows = np.flatnonzero(pattern_N == p)
    delta_M = observed_NxM[rows[0]]
    covariance_kxk = np.linalg.inv(np.eye(k) + world.precision[delta_M].sum(axis=0))
    spread_VxD = (axes_Vxk @ np.linalg.cholesky(covariance_kxk) @ z_Dxk.T).astype(np.float32)
    mean_NxV = (statistic_MxNxk[delta_M][:, rows].sum(axis=0) @
                (covariance_kxk @ axes_Vxk.T).astype(np.float32))
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // 1024)):
      v_VxNxD = mean_NxV[part].T[:, :, None] + spread_VxD[:, None]
      weight_NxD = np.ones(v_VxNxD.shape[1:], np.float32)
      if world.mechanism == "mmnar":
        for m, present in enumerate(delta_M):
          weight_NxD *= sigmoid(
              (1 if present else -1) * (v_VxNxD[axes + m] + world.intercept[m]))
      yield rows[part], int(p), v_VxNxD[:axes], weight_NxD


def _by_row(world, axes_Vxk, statistic_MxNxk, observed_NxM, z_Dxk, evidence):
  """posterior() where every row has a precision of its own, images have shifts that nobody knows,
  and the cells of an observed series that were measured say something, as the pattern does.

  Given a shift j the posterior is log-concave, exp(m_j' U - U' Lambda U / 2) times the probability
  of what was recorded: points are drawn from the normal around its mode and weighed by the rest.
  """
  pattern_N = cohort_lib.pattern_id(observed_NxM)
  for p in np.unique(pattern_N):
    rows = np.flatnonzero(pattern_N == p)
    delta_M = observed_NxM[rows[0]]
    shown = {m: (other, evidence[m]) for m, other in world.others.items() if delta_M[m]}
    looked = [(other, e) for other, e in shown.values() if e.measured.shape[1]]
    # F questions sigmoid(c U + a), each asked of a row some times: is a modality, a cell recorded?
    asked = np.isfinite(world.intercept) & (world.mechanism == "mmnar")
    c_Fxk = np.concatenate([world.policy[asked], *(other.policy for other, _ in looked)])
    a_F = np.concatenate([world.intercept[asked], *(other.intercept for other, _ in looked)])
    yes_NxF, no_NxF = (np.concatenate([np.broadcast_to(seen[asked], (len(rows), asked.sum())),
                                       *(cells[rows] for cells in counts)], axis=1)
                       for seen, counts in ((delta_M, [e.measured for _, e in looked]),
                                            (~delta_M, [e.unmeasured for _, e in looked])))
    shifts = int(np.prod([e.statistic.shape[1] for _, e in shown.values()]))
    at_once = max(1, _POINTS // (len(z_Dxk) * shifts * (len(a_F) + 2 * len(axes_Vxk))))
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // at_once)):
      mine, n = rows[part], len(part)
      precision_nx1xkxk = (np.eye(len(z_Dxk[0])) + world.precision[delta_M].sum(axis=0) + sum(
          (e.precision[mine] for _, e in shown.values()), np.zeros((n, 1, 1))))[:, None]
      m_nxJxk = statistic_MxNxk[delta_M][:, mine].sum(axis=0)[:, None].astype(float)
      for _, e in shown.values():
        m_nxJxk = m_nxJxk[:, :, None] + e.statistic[mine][:, None]
        m_nxJxk = m_nxJxk.reshape(n, -1, m_nxJxk.shape[-1])
      u_nxJxDxk, log_nxJxD = simulate_kinds.points(
          precision_nx1xkxk, m_nxJxk, c_Fxk, a_F, yes_NxF[part][:, None],
          no_NxF[part][:, None], z_Dxk)
      weight = np.exp(log_nxJxD - log_nxJxD.max(axis=(1, 2), keepdims=True)).reshape(n, -1)
      v_VxnxJxD = np.moveaxis(u_nxJxDxk @ axes_Vxk.T, -1, 0)
      yield (mine, int(p), v_VxnxJxD.reshape(len(axes_Vxk), n, -1).astype(np.float32),
             weight.astype(np.float32))


def _score(world, main, first, second):
  """Log-odds of the risk up to the offset, from the projections of U on the three directions."""
  return world.signal * (main + world.interaction * np.tanh(first) * np.tanh(second))


def bisect(mean, target):
  """Solves the increasing `mean(x) = target` elementwise; +-inf where the target is 1 or 0."""
  lo, hi = np.full(len(target), -40.0), np.full(len(target), 40.0)
  for _ in range(80):
    middle = (lo + hi) / 2
    below = mean(middle) < target
    lo, hi = np.where(below, middle, lo), np.where(below, hi, middle)
  return np.where(target >= 1, np.inf, np.where(target <= 0, -np.inf, (lo + hi) / 2))


def _normal_grid(n, k):
  """(n, k) float32 quasi-random standard normal points, always the same ones."""
  import scipy.special
  import scipy.stats
  points = scipy.stats.qmc.Sobol(k, scramble=False).random(n)
  return scipy.special.ndtri(points + 0.5 / n).astype(np.float32)


def _possible(world):
  """Ids of the patterns that can occur."""
  never = sum(1 << m for m, a in enumerate(world.intercept) if a == -np.inf)
  always = sum(1 << m for m, a in enumerate(world.intercept) if a == np.inf)
  return [p for p in range(world.gamma.shape[1]) if p & always == always and not p & never]


def _check(c):
  m, t = len(c.modalities), len(c.tasks)
  for key, length in dict(sizes=m, availability=m, visible=m, noise=m, prevalence=t).items():
    if len(c[key]) != length:
      raise cohort_lib.CohortError(f"config.data.simulate.{key} has {len(c[key])} entries, "
                                   f"{length} are needed.")
  if m > 12:
    raise cohort_lib.CohortError(f"config.data.simulate has {m} modalities; the table of effects "
                                 "stops at 12.")
  if c.rows < 1 or c.draws < 1 or c.draws & (c.draws - 1):
    raise cohort_lib.CohortError("config.data.simulate: rows must be positive and draws "
                                 "a power of two.")
  if min(c.noise) <= 0 or min(c.availability) < 0 or max(c.availability) > 1:
    raise cohort_lib.CohortError("config.data.simulate: noise must be positive and availability "
                                 "within 0..1.")
  if min(c.prevalence) <= 0 or max(c.prevalence) >= 1:
    raise cohort_lib.CohortError("config.data.simulate.prevalence must lie strictly "
                                 "between 0 and 1.")
  if c.mechanism not in ("mmnar", "mar", "mcar"):
    raise cohort_lib.CohortError(
        f"config.data.simulate.mechanism is '{c.mechanism}'; choose 'mmnar', 'mar' or 'mcar'.")
  kinds = tuple(c.get("kinds", ()))
  if kinds and (len(kinds) != m or not set(kinds) <= {"vector", "series", "image"}
                or kinds.count("image") > 2):
    raise cohort_lib.CohortError(f"config.data.simulate.kinds is {kinds}; 'vector', 'series' or "
                                 f"'image' of each of {m} modalities, two images at most.")
  if any(kind == "image" and size < 9 for kind, size in zip(kinds, c.sizes)):
    raise cohort_lib.CohortError("config.data.simulate.sizes of an image is the pixels of a side; "
                                 "at least 9.")
  if "series" in kinds and (c.steps < 1 or c.cells < 0):
    raise cohort_lib.CohortError("config.data.simulate: steps must be positive and cells not "
                                 "negative.")
  if c.mechanism == "mar" and max(c.availability) < 1:
    raise cohort_lib.CohortError("config.data.simulate.mechanism 'mar' needs a modality with "
                                 "availability 1 to read.")
