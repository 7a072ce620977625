"""Is the missingness informative? What a cohort's own data say of why modalities are missing.

    mcar    whether a modality was recorded has to do with nothing that is seen
    mar     ... only with what everyone has (modalities that nearly all rows have, and the groups)
    mmnar   ... with more: given what everyone has, the content of one modality still tells
            whether another was recorded, so clinicians saw something that is not in it

Two tests per modality m that some rows have and some lack, both cross-fitted: does what everyone
has predict delta_m; and are the residuals of delta_m, given that, correlated with the residuals of
the other modalities' content where it was observed. Holm's correction over the modalities; the
second kind of rejection says "mmnar", else the first says "mar", else "mcar".

Per task: does the pattern predict the outcome, and what of its effect is left once what everyone
has is known, y = g(W) + theta[pattern] + noise (Robinson 1988, doi 10.2307/1912705): under mcar and
mar theta is the direct effect gamma, up to the reference pattern; under mmnar it also holds what
the unseen says of the outcome. `sensitivity` says how much of that it would take. Effects
are told of the patterns whose outcomes may be told (disclosure.py), and of all others as one.
"""

import numpy as np

from crl_jax.data.cohort import pattern_name
from crl_jax.statistics import compare, disclosure, orthogonal, sensitivity

COMMON = 0.95     # a modality that so many rows have is what everyone has
LEVELS = 20       # groups with more levels (hospitals) are left out
FOLDS = 5
ROWS = 20_000     # patients' rows are sampled down to so many
_WIDTH = 16       # components of a modality that everyone has; of another half as many
_FEWEST = 30      # patients with, and without, a modality; patients of a pattern
LIMITS = (
    "These data can refute mcar, and that recording depends only on what everyone has; they can "
    "prove neither. A dependence on something unseen that left no trace in any recorded content "
    "would look like mcar or mar; a dependence on content that only some patients have (mar in the "
    "wider sense) looks like mmnar. What is left of a pattern's effect on an outcome is the direct "
    "effect and all that is unmeasured together; no data of this kind separate the two. The "
    "robustness value says how strong the unmeasured would have to be to make up all of it.")


def study(cohort, level=0.01, seed=0, min_cell=10):
  """Tests why modalities are missing, and what their patterns say of the outcomes.

  Args:
    cohort: data.cohort.Cohort.
    level: of the tests behind the verdict.
    seed: deals the patients into folds.
    min_cell: patients of either outcome that a pattern must have to be told of.
  Returns:
    JSON-able dict: "verdict" (null where no modality can be tested), "sentence", "limits", "level",
    "common" (names of what everyone has), "modalities": name -> {"observed", "covariates": {auroc:
    {value, lo, hi}, p, p_holm}, "content": {p, p_holm}}, "tasks": task -> {"n", "predicts": {auroc,
    p, p_holm}, "left": {p, p_holm, raw, left, share: {value, lo, hi}}, "benchmark": {outcome,
    pattern}, "reference", "patterns", of which that without a number is all others}. What cannot
    be computed is null with a "reason".
  """
  import threadpoolctl
  with threadpoolctl.threadpool_limits(1, "blas"):   # many small products: threads only wait
    return _study(cohort, level, seed, min_cell)


def _study(cohort, level, seed, min_cell):
  if len(cohort) > ROWS:
    cohort = cohort.take(_sample(cohort.patient_id, seed))
  fold = orthogonal.deal(cohort.patient_id, FOLDS, seed)
  rate_M = cohort.observed.mean(0)
  common = [m for m, rate in zip(cohort.modalities, rate_M) if rate >= COMMON]
  known = _everyone(cohort, common)
  found = {m: _modality(cohort, i, common, known, fold)
           for i, m in enumerate(cohort.modalities) if m not in common}
  for kind in ("covariates", "content"):
    compare.adjust([entry[kind] for entry in found.values()])
  tasks = {task: _task(cohort, t, known, fold, level, min_cell)
           for t, task in enumerate(cohort.tasks)}
  for kind in ("predicts", "left"):
    compare.adjust([entry[kind] for entry in tasks.values()])
  groups = [name for name, level_N in cohort.groups.items() if _usable(level_N)]
  verdict = _verdict(found, level)
  return {"verdict": verdict, "sentence": _sentence(verdict, level, common + groups),
          "limits": LIMITS, "level": level, "rows": len(cohort), "common": common + groups,
          "modalities": found, "tasks": tasks}


def _sample(patient, seed):
  """Rows of about ROWS rows' worth of patients, in order."""
  patients, who = np.unique(patient, return_inverse=True)
  keep = np.random.default_rng([seed, 0x5A3]).random(len(patients)) < ROWS / len(patient)
  return np.flatnonzero(keep[who])


def _usable(level_N):
  return 2 <= len(np.unique(level_N)) <= LEVELS


def _everyone(cohort, common):
  """(N, D) what everyone has, standardised, with the squares of its components."""
  blocks = []
  for name in common:
    z = components(cohort, name, _WIDTH)
    blocks += [z, (z**2 - 1) / np.sqrt(2)]
  for level_N in cohort.groups.values():
    if _usable(level_N):
      names, at = np.unique(np.asarray(level_N, str), return_inverse=True)
      share = np.bincount(at) / len(at)
      # a level of a few patients is told apart by none: it counts as the first of the others
      large = np.flatnonzero(np.bincount(at) >= _FEWEST)[1:]
      blocks.append((np.eye(len(names))[at] - share)[:, large]
                    / np.sqrt(share * (1 - share))[large])
  return np.concatenate(blocks, 1) if blocks else np.zeros((len(cohort), 0))


def components(cohort, modality, width):
  """(N, <= width) leading principal components of a modality's standardised features, of unit
  variance among the rows that have it, 0 elsewhere. A sequence enters by its means over time, a
  series and an image by their summaries, a missing feature by its mean."""
  present = cohort.observed[:, cohort.modalities.index(modality)]
  rows = np.flatnonzero(present)
  if not len(rows):
    return np.zeros((len(present), 0))
  x = np.asarray(cohort.summary(modality, rows), np.float64)
  if x.ndim == 3:
    count = (~np.isnan(x)).sum(1)
    x = np.divide(np.nansum(x, 1), count, out=np.full(count.shape, np.nan), where=count > 0)
  count = np.maximum((~np.isnan(x)).sum(0), 1)
  x = x - np.nansum(x, 0) / count
  x = np.nan_to_num(x / np.sqrt(np.maximum(np.nansum(x**2, 0) / count, 1e-12)))
  x = np.clip(x, -6, 6)[:, x.std(0) > 1e-6]
  found = np.zeros((len(present), min(width, x.shape[1], max(len(rows) - 1, 0))))
  if not found.size:
    return found
  # the leading directions, by three power iterations from a random start (Halko et al. 2011)
  start = np.random.default_rng(0).normal(size=(x.shape[1], min(found.shape[1] + 8, x.shape[1])))
  for _ in range(3):
    start = np.linalg.qr(x.T @ (x @ start))[0]
  projected = x @ start
  values, vectors = np.linalg.eigh(projected.T @ projected)
  z = projected @ vectors[:, ::-1][:, :found.shape[1]]
  found[rows] = z / np.maximum(z.std(0), 1e-9)
  return found


def _modality(cohort, m, common, known, fold):
  """Do the covariates that everyone has, and given them other modalities' content, tell whether
  modality m was recorded?"""
  delta, patient = cohort.observed[:, m], cohort.patient_id
  count = [len(np.unique(patient[delta == value])) for value in (False, True)]
  entry = {"observed": float(delta.mean())}
  if min(count) < _FEWEST:
    reason = f"fewer than {_FEWEST} patients {'have' if count[1] < _FEWEST else 'lack'} it"
    return {**entry, "covariates": {"p": None, "auroc": None, "reason": reason},
            "content": {"p": None, "reason": reason}}
  label = delta.astype(int)
  predicted = orthogonal.classes(known, label, fold, 2)[:, 1]
  covariates = orthogonal.prediction_test(known, delta, patient, fold)
  if "reason" in covariates:
    covariates["reason"] = "nothing that everyone has was recorded"
  area = compare.area(delta, predicted, patient) if known.shape[1] else None
  others = [i for i, name in enumerate(cohort.modalities) if i != m and name not in common]
  # one column for ten patients of the rarer kind at most
  width = int(np.clip(min(count) / 10 / max(len(others), 1), 1, _WIDTH // 2))
  blocks, inflation = [], []
  for i in others:
    seen = cohort.observed[:, i]
    z = components(cohort, cohort.modalities[i], width)
    blocks.append((z - orthogonal.linear(known, z, fold, seen)) * seen[:, None])
    inflation += [orthogonal.inflation(known, fold, seen)] * z.shape[1]
  residual = np.concatenate(blocks, 1) if blocks else np.zeros((len(label), 0))
  content = orthogonal.score_test(delta - predicted, residual, patient, np.array(inflation))
  if not blocks:
    content["reason"] = "no other modality is sometimes missing, to look through"
  return {**entry, "covariates": {"auroc": area, **covariates}, "content": content}


def _verdict(found, level):
  small = lambda kind: any(entry[kind].get("p_holm") is not None and entry[kind]["p_holm"] < level
                           for entry in found.values())
  kinds = "covariates", "content"
  if all(entry[kind]["p"] is None for entry in found.values() for kind in kinds):
    return None
  return "mmnar" if small("content") else "mar" if small("covariates") else "mcar"


def _sentence(verdict, level, common):
  everyone = f"what everyone has ({', '.join(common)})" if common else "what everyone has (nothing)"
  return {
      None: "No modality is missing often enough, or present often enough, to ask why.",
      "mcar": f"Consistent with mcar: nothing seen tells which modalities were recorded "
              f"(tests at {level:g}).",
      "mar": f"Not mcar; consistent with mar: {everyone} tells which modalities were recorded, and "
             f"given it, no other content does (tests at {level:g}).",
      "mmnar": f"Consistent with mmnar, and with neither mcar nor with recording that depends only "
               f"on {everyone}: given that, the content of other modalities still tells which were "
               f"recorded (tests at {level:g})."}[verdict]


def _task(cohort, t, known, fold, level, min_cell):
  """What the pattern says of the outcome, before and after what everyone has."""
  labelled = ~np.isnan(cohort.labels[:, t])
  y, pattern, patient = (v[labelled] for v in (cohort.labels[:, t], cohort.pattern,
                                               cohort.patient_id))
  y, known, fold = y.astype(np.float64), known[labelled], fold[labelled]
  ids, at = np.unique(pattern, return_inverse=True)
  n_P = np.array([len(np.unique(patient[at == k])) for k in range(len(ids))], int)
  order = np.argsort(-n_P, kind="stable")
  large = ids[order[n_P[order] >= _FEWEST]]
  nothing = {"n": len(y), "predicts": {"auroc": None, "p": None}, "left": {"p": None},
             "patterns": []}
  if len(large) < 2 or min(y.sum(), len(y) - y.sum()) < _FEWEST:
    reason = (f"fewer than two patterns with {_FEWEST} patients" if len(large) < 2 else
              f"fewer than {_FEWEST} rows of an outcome")
    for key in ("predicts", "left"):
      nothing[key]["reason"] = reason
    return nothing
  label = np.select([pattern == p for p in large], np.arange(len(large)), len(large))  # last: rare
  count = int(label.max()) + 1
  own = np.eye(count)[label]
  rate = np.stack([_rates(y, label, count, fold != k) for k in range(FOLDS)])
  y_left = y - orthogonal.classes(known, y.astype(int), fold, 2)[:, 1]
  own_left = own - orthogonal.classes(known, label, fold, count)
  inflation = orthogonal.inflation(known, fold)
  told = [g.level for g in disclosure.groups(pattern, patient, y, min_cell)
          if g.told and not g.rare]
  # p-values and an area over all patterns tell of none of them
  entry = {
      "n": len(y),
      "predicts": {"auroc": compare.area(y, rate[fold, label], patient),
                   **orthogonal.prediction_test(own[:, 1:], y, patient, fold)},
      "left": {"p": orthogonal.contrast(y_left, own_left[:, 1:], patient, inflation)["p"]},
      "benchmark": {"outcome": _explained(y_left, y),
                    "pattern": _explained(own_left[:, 1:], own[:, 1:])}}
  shown = [k for k, p in enumerate(large) if p in told]
  if not shown:
    none = {"value": None, "lo": None, "hi": None, "reason": disclosure.reason(min_cell)}
    entry["left"] |= {"raw": None, "left": None, "share": none}
    return entry | {"reference": None, "patterns": []}
  rest = [k for k in range(count) if k not in shown]
  merge = np.eye(count)[:, shown[1:]]
  if rest:
    merge = np.concatenate([merge, np.eye(count)[:, rest].sum(1, keepdims=True)], 1)
  d = own @ merge
  raw = orthogonal.contrast(y - y.mean(), d - d.mean(0), patient)
  left = orthogonal.contrast(y_left, own_left @ merge, patient, inflation)
  entry["left"] |= _share_left(raw, left, d.mean(0), level)
  names = [(int(large[k]), pattern_name(large[k], cohort.modalities)) for k in shown]
  reference, reference_rate = label == shown[0], float(y[label == shown[0]].mean())
  names.append((None, f"other patterns ({len(ids) - len(shown)})"))
  patterns = []
  for k, (number, name) in enumerate(names[1:][:d.shape[1]]):
    mine, effect = d[:, k] > 0, left["coefficient"][k]
    if len(np.unique(patient[mine])) < _FEWEST:
      continue
    se_raw, se = (np.sqrt(c["covariance"][k, k]) for c in (raw, left))
    patterns.append({
        "pattern": number, "name": name, "n": int(mine.sum()),
        "raw": orthogonal.interval(raw["coefficient"][k], se_raw),
        "left": orthogonal.interval(effect, se),
        **sensitivity.describe(effect, se, left["scale"][k], reference_rate)})
  return entry | {
      "reference": {"pattern": names[0][0], "name": names[0][1], "n": int(reference.sum()),
                    "rate": reference_rate},
      "patterns": sorted(patterns, key=lambda row: (row["pattern"] is None, -row["n"],
                                                    row["pattern"]))}


def _share_left(raw, left, share, level):
  """{"raw", "left", "share"}: spreads of the effects, and what part the second is of the first."""
  found = {name: float(orthogonal.spread(c["coefficient"], c, share))
           for name, c in (("raw", raw), ("left", left))}
  if raw["p"] < level and found["raw"] > 0:
    return found | {"share": orthogonal.part(raw, left, share)}
  return found | {"share": {"value": None, "lo": None, "hi": None, "reason": (
      f"it is not sure that there is an effect to divide (p {raw['p']:.2g}, asked {level:g})")}}


def _rates(y, label, count, rows):
  """(count,) outcome rate of each pattern among `rows`, drawn to the mean as by ten more rows."""
  n, positives = (np.bincount(label[rows], w, count) for w in (None, y[rows]))
  return (positives + 10 * y[rows].mean()) / (n + 10)


def _explained(left, before):
  """Share of the variance that what everyone has explains, out of fold; not below 0."""
  return float(max(0.0, 1 - np.sum(left**2) / np.sum((before - before.mean(0)) ** 2)))
