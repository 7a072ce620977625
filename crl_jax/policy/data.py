"""Rows whose treatment was chosen by somebody: what a study of treatment policies is made of.

A unit has what is at hand when the decision is taken (phi: the modalities of a Cohort and which of
them exist), the confounders that annotators of the training data wrote down (X), the treatment T in
{0, 1} that was decided after that, and the outcome Y. Only phi() may be seen at inference.

`splits.assign` deals all rows: into a study's training and test rows, and each of these again into
the folds of cross-fitting.
"""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from crl_jax import files
from crl_jax.data import cohort as cohort_lib, splits as splits_lib
from crl_jax.data.cohort import Cohort, CohortError

FEWEST = 50   # rows of an arm
KINDS = ("continuous", "binary", "count")
TRUTH = ("mu0", "mu1", "e", "tau_phi", "tau_phi_var")
TIMES = ("t0", "known_last", "treated_at", "outcome_at")
ARRAYS = ("treatment", "outcome", "annotations", "annotated")


@dataclasses.dataclass(frozen=True)
class PolicyCohort:
  """Attributes:
    cohort: phi, and patients; tasks ("outcome",), labels Y where it is binary, else NaN.
    treatment: (N,) float32 in {0, 1}.
    outcome: (N,) float32, finite.
    annotations: (N, Q) float32, X; NaN: this value was not recorded.
    annotated: (N,) bool, an annotator looked at the row at all (S).
    names: the Q names.
    shared: modalities, or pairs (modality, feature), of phi whose values are annotations too.
    outcome_kind: a key of KINDS.
    higher_is_better: whether a larger outcome is.
    randomised: whether the treatment was drawn at random.
    truth: of simulated rows, name of TRUTH -> (N,): E[Y(0) | X], E[Y(1) | X], P(T = 1 | X), and
      mean and variance of the effect given phi.
    times: name of TIMES -> (N,) float64 seconds: the decision, when the last of phi and X was
      known, the treatment's start (NaN: never) and when the outcome is read.
    info: time_zero, treatment, outcome: a sentence each; attrition; counts by arm.
  """
  cohort: Cohort
  treatment: np.ndarray
  outcome: np.ndarray
  annotations: np.ndarray
  annotated: np.ndarray
  names: tuple
  shared: tuple = ()
  outcome_kind: str = "continuous"
  higher_is_better: bool = False
  randomised: bool = False
  truth: dict = dataclasses.field(default_factory=dict)
  times: dict = dataclasses.field(default_factory=dict)
  info: dict = dataclasses.field(default_factory=dict)

  def __len__(self):
    return len(self.cohort)

  @property
  def effect(self):
    """(N,) the true effect of the treatment given X."""
    return self.truth["mu1"] - self.truth["mu0"]


@dataclasses.dataclass(frozen=True)
class Phi:
  """What inference may see of N rows: no treatment, no outcome, no annotation and no truth.

  Attributes: as those of data.cohort.Cohort.
  """
  modalities: tuple
  inputs: dict
  observed: np.ndarray
  features: dict
  kinds: dict
  row_id: np.ndarray
  patient_id: np.ndarray

  def __len__(self):
    return len(self.row_id)

  @property
  def pattern(self):
    """(N,) int64 pattern ids."""
    return cohort_lib.pattern_id(self.observed)

  def take(self, rows):
    """The rows `rows`, in that order."""
    return dataclasses.replace(
        self, inputs={m: x[rows] for m, x in self.inputs.items()}, observed=self.observed[rows],
        row_id=self.row_id[rows], patient_id=self.patient_id[rows])

  def hiding(self, modalities):
    """These rows with some modalities observed for nobody. Raises CohortError for one that is not
    there."""
    if unknown := sorted(set(modalities) - set(self.modalities)):
      raise CohortError(f"policy.hide names {unknown}; the modalities are "
                        f"{list(self.modalities)}.")
    seen = np.array([m not in modalities for m in self.modalities])
    return dataclasses.replace(
        self, observed=self.observed & seen,
        inputs={m: np.zeros_like(x) if m in modalities else x for m, x in self.inputs.items()})


def phi(rows):
  """The Phi of a PolicyCohort, or of a Cohort of new patients."""
  c = rows.cohort if isinstance(rows, PolicyCohort) else rows
  return Phi(c.modalities, c.inputs, c.observed, c.features,
             {m: c.kind(m) for m in c.modalities}, c.row_id, c.patient_id)


def take(p, rows):
  """`p` restricted to `rows` (indices or a boolean mask), in that order."""
  pick = lambda tree: {name: x[rows] for name, x in tree.items()}
  return dataclasses.replace(
      p, cohort=p.cohort.take(rows), truth=pick(p.truth), times=pick(p.times),
      **{name: getattr(p, name)[rows] for name in ARRAYS})


def validate(p):
  """Checks what a study is made of, its cohort too.

  Returns:
    `p` with cohort.info["warnings"] extended by what was survived.
  Raises:
    CohortError: naming the array, column and number of rows.
  """
  cohort = cohort_lib.validate(p.cohort)
  n, q = len(p), len(p.names)
  _check_shapes(p, n, q)
  if odd := int((~np.isin(p.treatment, (0, 1))).sum()):
    raise CohortError(f"treatment is neither 0 nor 1 in {odd} rows: bring two arms, leave rows of "
                      "others out and say so in info['attrition'].")
  for arm in (0, 1):
    if (rows := int((p.treatment == arm).sum())) < FEWEST:
      raise CohortError(f"treatment is {arm} in {rows} rows; at least {FEWEST} of each arm are "
                        "needed to say anything.")
  if odd := int((~np.isfinite(p.outcome)).sum()):
    raise CohortError(f"outcome is not finite in {odd} rows: leave them out at the source and "
                      "count them in info['attrition'].")
  if p.outcome_kind not in KINDS:
    raise CohortError(f"outcome_kind is '{p.outcome_kind}'; it may be {' or '.join(KINDS)}.")
  wrong = {"binary": ~np.isin(p.outcome, (0, 1)), "count": p.outcome < 0}.get(
      p.outcome_kind, np.zeros(n, bool))
  if wrong.any():
    raise CohortError(f"outcome is no {p.outcome_kind} value in {int(wrong.sum())} rows: mend it, "
                      "or outcome_kind.")
  _check_annotations(p)
  _check_truth_and_times(p, n)
  # an outcome that is no yes or no has no label
  warnings = [w for w in cohort.info["warnings"] if not w.startswith("task 'outcome' has no")]
  warnings += _leaks(p) + [
      "nobody has said that phi and the annotations come before the treatment: give times, or "
      "info['time_zero']"] * (not p.times and "time_zero" not in p.info)
  info = {**cohort.info, "warnings": warnings}
  return dataclasses.replace(p, cohort=dataclasses.replace(cohort, info=info))


def _check_shapes(p, n, q):
  for name, shape, dtype in (("treatment", (n,), np.float32), ("outcome", (n,), np.float32),
                             ("annotations", (n, q), np.float32), ("annotated", (n,), bool)):
    x = getattr(p, name)
    if x.shape != shape or x.dtype != dtype:
      raise CohortError(f"{name} is {x.dtype} {x.shape}; expected {np.dtype(dtype)} {shape}.")
  if p.cohort.tasks != ("outcome",):
    raise CohortError(f"the cohort's tasks are {p.cohort.tasks}; a PolicyCohort has ('outcome',).")
  if len(set(p.names)) < q:
    raise CohortError("names of annotations repeat: rename the columns.")
  for entry in p.shared:
    modality, feature = (entry, None) if isinstance(entry, str) else entry
    if modality not in p.cohort.modalities or p.cohort.inputs[modality].ndim != 2 or (
        feature is not None and feature not in p.cohort.features[modality]):
      raise CohortError(f"shared names {entry!r}: it must be a modality of kind 'vector', or a "
                        "pair (modality, feature).")


def _check_annotations(p):
  x, seen = p.annotations, p.annotated
  if odd := int(np.isinf(x).any(1).sum()):
    raise CohortError(f"annotations are infinite in {odd} rows: NaN says 'not recorded'.")
  if odd := int((~np.isnan(x[~seen])).any(1).sum()):
    raise CohortError(f"annotations hold values in {odd} rows that annotated says nobody looked "
                      "at: mend one of them.")
  if not seen.any():
    raise CohortError("annotated is False in all rows: without confounders nothing can be said.")
  if odd := int(np.isnan(x[seen]).all(1).sum()) if len(p.names) else 0:
    raise CohortError(f"annotations are all NaN in {odd} annotated rows: set annotated to False "
                      "there.")
  for j, name in enumerate(p.names):
    values = x[seen, j][~np.isnan(x[seen, j])]
    if not len(values) or values.min() == values.max():
      raise CohortError(f"annotation '{name}' has {'one value' if len(values) else 'no value'} in "
                        f"{len(values)} rows: it tells nothing, leave it out.")


def _check_truth_and_times(p, n):
  for what, tree, known in (("truth", p.truth, TRUTH), ("times", p.times, TIMES)):
    if unknown := sorted(set(tree) - set(known)):
      raise CohortError(f"{what} has {unknown}; it may have {list(known)}.")
    for name, x in tree.items():
      if np.shape(x) != (n,):
        raise CohortError(f"{what}['{name}'] has shape {np.shape(x)}, expected ({n},).")
  for name, x in p.truth.items():
    if odd := int((~np.isfinite(x)).sum()):
      raise CohortError(f"truth['{name}'] is not finite in {odd} rows.")
  if p.truth and not {"mu0", "mu1", "e"} <= set(p.truth):
    raise CohortError(f"truth has {sorted(p.truth)}; mu0, mu1 and e are needed together.")
  late = {"known_last": lambda t: t["known_last"] >= t["t0"],
          "treated_at": lambda t: t["treated_at"] < t["t0"],
          "outcome_at": lambda t: t["outcome_at"] < t["treated_at"]}
  needs = {"known_last": "before t0", "treated_at": "at t0 or later",
           "outcome_at": "at treated_at or later"}
  if p.times and "t0" not in p.times:
    raise CohortError("times has no t0, the decision.")
  for name, wrong in late.items():
    if name in p.times and (name != "outcome_at" or "treated_at" in p.times):
      if odd := int(wrong(p.times).sum()):
        raise CohortError(f"times['{name}'] is not {needs[name]} in {odd} rows: what phi, X or the "
                          "treatment knows is then not in the order that causes need.")


def _leaks(p):
  """Warnings of annotations that stand, value for value, in phi without being told as shared."""
  c, found = p.cohort, []
  shared = {entry if isinstance(entry, str) else tuple(entry) for entry in p.shared}
  for modality in c.modalities:
    if c.kind(modality) != "vector" or modality in shared:
      continue
    present = c.observed[:, c.modalities.index(modality)] & p.annotated
    x = c.inputs[modality][present]
    for j, name in enumerate(p.names):
      same = (x == p.annotations[present, j, None]).all(0) if len(x) else np.zeros(0, bool)
      found += [f"annotation '{name}' is the feature '{c.features[modality][k]}' of '{modality}' "
                "under another name: say so in shared" for k in np.flatnonzero(same)
                if (modality, c.features[modality][k]) not in shared]
  return found


def fingerprint(p):
  """SHA-256 over everything that a study depends on."""
  digest = hashlib.sha256(cohort_lib.fingerprint(p.cohort).encode())
  digest.update(json.dumps(_about(p), sort_keys=True).encode())
  for name, array in _arrays(p).items():
    digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def save(p, folder):
  """Writes the cohort as cohort.save() does, policy.<array>.npy and, last, policy.json; load()
  reads them back."""
  folder = pathlib.Path(folder)
  cohort_lib.save(p.cohort, folder)
  for name, array in _arrays(p).items():
    np.save(_file(folder, name), array, allow_pickle=False)
  files.write_json(folder / "policy.json", {
      **_about(p), "info": p.info, "truth": sorted(p.truth), "times": sorted(p.times),
      "sha256": {name: files.sha256(_file(folder, name)) for name in _arrays(p)}})


def load(folder):
  """Reads what save() wrote. Raises CohortError naming the file that is absent, damaged or changed;
  a folder of a cohort alone is one for predict, not for a study."""
  folder = pathlib.Path(folder)
  cohort = cohort_lib.load(folder)
  try:
    about = files.read(folder / "policy.json")
    changed = [name for name, digest in about["sha256"].items()
               if files.sha256(_file(folder, name)) != digest]
    if changed:
      raise CohortError(f"policy.{changed[0]}.npy of {folder} is not what was saved "
                        f"({len(changed)} such files): write it again with policy.data.save().")
    read = lambda name: files.load_array(_file(folder, name))
    return PolicyCohort(
        cohort=cohort, **{name: read(name) for name in ARRAYS}, names=tuple(about["names"]),
        shared=tuple(entry if isinstance(entry, str) else tuple(entry)
                     for entry in about["shared"]),
        truth={name: read(f"truth.{name}") for name in about["truth"]},
        times={name: read(f"times.{name}") for name in about["times"]}, info=about["info"],
        **{key: about[key] for key in ("outcome_kind", "higher_is_better", "randomised")})
  except CohortError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise CohortError(f"{folder} is not a complete saved PolicyCohort ({type(error).__name__}); "
                      "write it again with policy.data.save().") from None


def _file(folder, name):
  return folder / f"policy.{name}.npy"


def _arrays(p):
  """Name -> array, as files of save()."""
  return {name: getattr(p, name) for name in ARRAYS} | {
      f"{kind}.{name}": x for kind, tree in (("truth", p.truth), ("times", p.times))
      for name, x in sorted(tree.items())}


def _about(p):
  return {"names": list(p.names),
          "shared": [entry if isinstance(entry, str) else list(entry) for entry in p.shared],
          "outcome_kind": p.outcome_kind, "higher_is_better": bool(p.higher_is_better),
          "randomised": bool(p.randomised)}


def split(p, settings, seed):
  """{"train", "test"}: (n,) row indices of a study.

  `settings.split` "patients": the first of five folds of patients, stratified by treatment (and a
  binary outcome), is the test. "paper": the last tenth of the rows in their order is the test and a
  share `settings.train_share` of all rows, drawn from the rest, the training, as the authors' code
  has it; refused where a patient has several rows. Raises CohortError.
  """
  n = len(p)
  if settings.split == "patients":
    dealt = splits_lib.assign(p.cohort.patient_id, _strata(p), 5, 0.1, seed)
    return {"train": np.flatnonzero(dealt.fold != 0), "test": np.flatnonzero(dealt.fold == 0)}
  if several := n - len(np.unique(p.cohort.patient_id)):
    raise CohortError(f"policy.split 'paper' deals rows, and {several} of them share a patient "
                      "with another: patients would sit in training and test. Use 'patients'.")
  first = n - n // 10
  train = np.random.default_rng(0).permutation(first)[:round(settings.train_share * n)]
  return {"train": np.sort(train), "test": np.arange(first, n)}


def folds(p, rows, count, seed, validation=0.1):
  """The folds of cross-fitting inside `rows` of `p`: a list of role -> (n,) positions in `rows`.

  "test": rows of patients that the fold's fits have not seen; "val" stops them early; "train" fits.
  `count` 1 is the paper's way: the scored rows are all of them, those of the fit too.
  """
  patient, strata = p.cohort.patient_id[rows], _strata(p)[rows]
  if count == 1:
    held = splits_lib.assign(patient, strata, round(1 / validation), 0.5, seed).fold == 0
    return [{"train": np.flatnonzero(~held), "val": np.flatnonzero(held),
             "test": np.arange(len(rows))}]
  dealt = splits_lib.assign(patient, strata, count, validation, seed)
  return [{role: dealt.rows(k, role) for role in splits_lib.ROLES} for k in range(count)]


def _strata(p):
  columns = [p.treatment] + [p.outcome] * (p.outcome_kind == "binary")
  return np.stack(columns, 1)
