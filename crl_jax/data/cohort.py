"""Cohort: what every data source delivers and everything else consumes."""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from crl_jax import files
from crl_jax.data import contents, summaries

# What a modality's input of one row is: its axes and the type of its values.
KINDS = {
    "vector": (1, np.float32),     # (F,) features
    "sequence": (2, np.float32),   # (L, F) features over time
    "set": (2, np.float32),        # (K, F) features of things in no order, a row's images
    "text": (2, np.int32),         # (K, L) token ids of windows of text, 0 is padding
    # (L, 1 + V): the hours of a step, ascending, NaN behind the last one; V values, NaN where
    # nothing was measured
    "series": (2, np.float32),
    "image": (3, np.uint8),        # (H, W, C) pixels
}
_INFERRED = {"int32": "text", "uint8": "image"}   # by the type of their values


# Predictors of every predictions table; its columns are p_<predictor>_<task>.
RESERVED = ("base", "logistic", "onehot", "boosting", "forest", "lightgbm", "xgboost",
            "catboost")
_LONGEST = 100   # bytes of a name that becomes part of a file's


class CohortError(ValueError):
  """Data, files or settings that cannot be used as they are; the message names the place and the
  next step, never a patient's values. All that crl_jax/data raises with words of its own is one."""


class AbsentError(FileNotFoundError, CohortError):
  """A file or folder is not there."""


class OccupiedError(FileExistsError, CohortError):
  """A folder to be written holds something."""


class DiskError(OSError, CohortError):
  """A disk does not take, or does not give back, what was written."""


@dataclasses.dataclass(frozen=True)
class Cohort:
  """Rows are patients at a prediction time. All arrays are NumPy and live on the host.

  Attributes:
    modalities: the M names, in the order of the columns of `observed` and of the bits of the
      pattern id.
    tasks: the T names.
    inputs: modality -> float32 (N, F), for sequences and sets (N, L, F), for series (N, L, 1 + V),
      int32 token ids (N, K, L) of text, or uint8 (N, H, W, C) of an image. Zeros where the modality
      is unobserved. NaN inside an observed modality is a missing feature, imputed by
      data/preprocess.py; in sequences and sets an entry of NaN alone is padding; a series' step
      exists where its time is not NaN.
    observed: (N, M) bool, True where present.
    labels: (N, T) float32 in {0, 1, NaN}; NaN: the outcome is not defined for that row.
    row_id: (N,) int64, unique.
    patient_id: (N,) int64. All grouping is by patient.
    groups: name -> (N,) str, for subgroup results (sex, age band, hospital, ...).
    features: modality -> names of its F features: of a series "hours" and its variables, of an
      image its channels.
    references: name -> (N, T) float32 probabilities that come with the cohort (the simulated one's
      Bayes-optimal).
    info: JSON-able facts for data.json: attrition, counts of odd rows, input hashes, notes, truth;
      "normal", series -> variable -> its value in health, for config.preprocess.before.
    kinds: modality -> key of KINDS, where kind() would tell another from the array.
  """
  modalities: tuple
  tasks: tuple
  inputs: dict
  observed: np.ndarray
  labels: np.ndarray
  row_id: np.ndarray
  patient_id: np.ndarray
  groups: dict
  features: dict
  references: dict = dataclasses.field(default_factory=dict)
  info: dict = dataclasses.field(default_factory=dict)
  kinds: dict = dataclasses.field(default_factory=dict)

  def __len__(self):
    return len(self.row_id)

  @property
  def pattern(self):
    """(N,) int64 pattern ids."""
    return pattern_id(self.observed)

  def kind(self, modality):
    """The key of KINDS that says what a row's input of `modality` is."""
    x = self.inputs[modality]
    return self.kinds.get(modality) or _INFERRED.get(
        x.dtype.name, "vector" if x.ndim == 2 else "sequence")

  def summary(self, modality, rows):
    """Inputs of `rows` (indices) as tests look at them: a series or an image as a table (n, F)."""
    return summaries.of_raw(self.kind(modality), self.inputs[modality], rows)

  def take(self, rows):
    """Returns the cohort restricted to `rows` (indices or a boolean mask), in that order."""
    pick = lambda tree: {k: v[rows] for k, v in tree.items()}
    return dataclasses.replace(
        self, inputs=pick(self.inputs), observed=self.observed[rows], labels=self.labels[rows],
        row_id=self.row_id[rows], patient_id=self.patient_id[rows], groups=pick(self.groups),
        references=pick(self.references))


def pattern_id(observed):
  """Pattern id `sum_m delta_m 2^m` of `observed` (..., M) bool, as int64 (...,). Raises CohortError
  past 62 modalities."""
  observed = np.asarray(observed, bool)
  if observed.shape[-1] > 62:
    raise CohortError(f"{observed.shape[-1]} modalities do not fit a 64-bit pattern id; "
                      "merge some.")
  return observed @ (np.int64(1) << np.arange(observed.shape[-1], dtype=np.int64))


def pattern_name(pattern, modalities):
  """'structured+image' for the pattern id 3; 'none' for 0."""
  names = [m for i, m in enumerate(modalities) if int(pattern) >> i & 1]
  return "+".join(names) or "none"


def validate(cohort):
  """Checks what enters before anything is trained on it.

  Args:
    cohort: a Cohort.
  Returns:
    the cohort with `info["warnings"]` extended by what was survived and `info["rows"]`,
    `info["patients"]` set.
  Raises:
    CohortError: naming the array, column and number of rows, for all that must be mended at the
      source.
  """
  _check_names(cohort)
  n, warnings = len(cohort), []
  if n == 0:
    raise CohortError("The cohort has no rows. See its attrition table for the step that removed "
                      "the last of them.")
  for name, ids in (("row_id", cohort.row_id), ("patient_id", cohort.patient_id)):
    if ids.shape != (n,) or ids.dtype != np.int64:
      raise CohortError(f"{name} must be int64 of shape ({n},), not {ids.dtype} {ids.shape}: "
                        "convert it at the source; ids read as float or text lose digits.")
  duplicates = n - len(np.unique(cohort.row_id))
  if duplicates:
    raise CohortError(f"row_id repeats in {duplicates} rows: a join multiplied rows, or a file was "
                      "read twice.")
  for name, value, shape in (("observed", cohort.observed, (n, len(cohort.modalities))),
                             ("labels", cohort.labels, (n, len(cohort.tasks)))):
    if value.shape != shape:
      raise CohortError(f"{name} has shape {value.shape}, expected {shape}.")
  if cohort.observed.dtype != bool:
    raise CohortError(f"observed must be bool (True where present), not {cohort.observed.dtype}.")
  if set(cohort.inputs) != set(cohort.modalities):
    raise CohortError(f"inputs has {sorted(cohort.inputs)}, expected {sorted(cohort.modalities)}.")
  if set(cohort.features) != set(cohort.modalities):
    raise CohortError(f"features has {sorted(cohort.features)}, expected "
                      f"{sorted(cohort.modalities)}: the names of each modality's features.")
  for name, values in (*cohort.groups.items(), *cohort.references.items()):
    if len(values) != n:
      raise CohortError(f"groups or references '{name}' has {len(values)} values for {n} rows.")
  unknown = {m: kind for m, kind in cohort.kinds.items()
             if m not in cohort.modalities or kind not in KINDS}
  if unknown:
    raise CohortError(f"kinds has {unknown}; it names modalities of {sorted(cohort.modalities)} "
                      f"and kinds of {sorted(KINDS)}.")
  for t, task in enumerate(cohort.tasks):
    wrong = int((~np.isnan(cohort.labels[:, t]) & ~np.isin(cohort.labels[:, t], (0, 1))).sum())
    if wrong:
      raise CohortError(
          f"labels of task '{task}' hold {wrong} values that are neither 0, 1 nor NaN (undefined): a "
          "task is a yes or no. Bring classes as a 0/1 task for each, and days or a time to an "
          "event as a task 'within so many days', NaN where the follow-up ends before.")
    if not np.isfinite(cohort.labels[:, t]).any():
      warnings.append(f"task '{task}' has no labelled row: it takes part in no loss and no metric")
  for m, modality in enumerate(cohort.modalities):
    warnings += _check_modality(cohort, modality, cohort.observed[:, m])
  nothing = int((~cohort.observed.any(1)).sum())
  if nothing:
    warnings.append(f"{nothing} rows have no modality at all: predicted from their pattern alone")
  info = {**cohort.info, "rows": n, "patients": len(np.unique(cohort.patient_id)),
          "warnings": list(cohort.info.get("warnings", ())) + warnings}
  return dataclasses.replace(cohort, info=info)


def _check_names(cohort):
  """Refuses names that would share a column of the predictions table or a file, or be none."""
  kinds = {"modality": cohort.modalities, "task": cohort.tasks, "group": cohort.groups,
           "reference": cohort.references}
  for kind, names in kinds.items():
    for name in names:
      if (not isinstance(name, str) or not name.strip() or len(name.encode()) > _LONGEST
          or name.startswith(".") or not name.isprintable() or set(name) & set("/\\:")):
        raise CohortError(f"the {kind} {str(name)[:40]!r} cannot be part of a file's name: use 1 to "
                          f"{_LONGEST} bytes without / \\ : and control characters, and no dot in "
                          "front.")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
      raise CohortError(f"{kind} names must differ; there are several of {twice}.")
  taken = {}
  for task in cohort.tasks:
    for who in ("", *RESERVED, *cohort.references):
      column, owner = f"p_{who}_{task}" if who else f"p_{task}", f"'{who or 'final'}' of '{task}'"
      if column in taken:
        raise CohortError(f"the column {column} of the predictions table would be {taken[column]} "
                          f"and {owner}: rename that task or reference. References cannot be "
                          f"called {', '.join(RESERVED)}.")
      taken[column] = owner


def _check_modality(cohort, modality, present):
  x, names = cohort.inputs[modality], cohort.features[modality]
  if x.ndim > 2 and x.dtype.name not in _INFERRED and modality not in cohort.kinds:
    raise CohortError(f"inputs['{modality}'] is {x.dtype} {x.shape}, and kinds does not say what a "
                      "row of it is: kinds={'" + modality + "': KIND} with 'sequence' (steps, "
                      "features) over time, 'series' (steps, hours and values), or 'set' (things, "
                      "features) in no order. Bring an image as a vector of features, or as its "
                      "pixels: uint8 (rows, height, width, channels).")
  kind = cohort.kind(modality)
  axes, dtype = KINDS[kind]
  if (x.dtype != dtype or x.ndim != 1 + axes or x.shape[0] != len(cohort) or
      x.shape[-1] != len(names)):
    raise CohortError(f"inputs['{modality}'] ({kind}) is {x.dtype} {x.shape}; expected "
                      f"{np.dtype(dtype)} with {1 + axes} axes, of {len(cohort)} rows and "
                      f"{len(names)} features. A wrong embedding width is never cut or padded.")
  fault, warnings = contents.CHECKS[kind](modality, x, names, present)
  if fault:
    raise CohortError(fault)
  return warnings


def fingerprint(cohort):
  """SHA-256 over everything a run depends on: names, ids, pattern, labels and inputs."""
  digest = hashlib.sha256(json.dumps([cohort.modalities, cohort.tasks, cohort.features]
                                     + [cohort.kinds] * bool(cohort.kinds)).encode())
  for array in (cohort.row_id, cohort.patient_id, cohort.observed, cohort.labels,
                *(cohort.inputs[m] for m in cohort.modalities)):
    digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def save(cohort, folder):
  """Writes the cohort as one .npy file per array and cohort.json, which is written last; load()
  reads it back. The folder may hold nothing but inputs that already lie there (on_disk)."""
  folder = pathlib.Path(folder)
  files.make_private(folder)
  lying = {pathlib.Path(x.filename).absolute(): x for x in cohort.inputs.values()
           if isinstance(x, np.memmap)}
  if {path.absolute() for path in folder.iterdir()} - set(lying):
    raise OccupiedError(f"{folder} is not empty: name a new folder for the cohort.")
  for kind, arrays in _arrays(cohort).items():
    for name, array in arrays.items():
      path = folder / f"{kind}.{name}.npy"
      if path.absolute() in lying:
        array.flush()
      else:
        np.save(path, array, allow_pickle=False)
  about = {key: getattr(cohort, key)
           for key in ("modalities", "tasks", "features", "kinds", "info")}
  about["arrays"] = {kind: list(arrays) for kind, arrays in _arrays(cohort).items()}
  about["sha256"] = _digests(folder, about)
  files.write_json(folder / "cohort.json", about)


def on_disk(folder):
  """(modality, shape, dtype=float32) -> an array that lies where save() would put it: for inputs
  that do not fit in memory."""
  folder = pathlib.Path(folder)
  files.make_private(folder)
  return lambda name, shape, dtype=np.float32: np.lib.format.open_memmap(
      folder / f"inputs.{name}.npy", "w+", dtype, shape)


def load(folder):
  """Reads a cohort written by save(); its inputs stay on disk until they are used. Raises
  CohortError naming the file that is absent, unreadable or not what was saved; a cohort.json without
  checksums (version 0.1.0) is taken at its word."""
  folder = pathlib.Path(folder)
  try:
    about = json.loads((folder / "cohort.json").read_text())
    kept = about.get("sha256")
    changed = [name for name, digest in (_digests(folder, about) if kept else {}).items()
               if kept.get(name) != digest]
    if changed:
      raise CohortError(f"{folder} is not the cohort that was saved: {', '.join(changed)} changed on "
                        "disk. Restore the folder, or write it again with cohort.save().")
    read = lambda kind, mode=None: {name: files.load_array(folder / f"{kind}.{name}.npy", mode)
                                    for name in about["arrays"][kind]}
    rows, groups, references = (read(kind) for kind in ("rows", "groups", "references"))
    return Cohort(
        modalities=tuple(about["modalities"]), tasks=tuple(about["tasks"]), groups=groups,
        features={m: tuple(names) for m, names in about["features"].items()},
        references=references, info=about["info"], kinds=about.get("kinds", {}),
        inputs=read("inputs", "r"), **rows)
  except CohortError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    why = f"{type(error).__name__}: {getattr(error, 'filename', None) or 'damaged'}"
    raise CohortError(f"{folder} is not a complete saved cohort ({why}); write it again with "
                      "cohort.save().") from None


def _digests(folder, about):
  """File name -> SHA-256 of the arrays of a saved cohort."""
  names = [f"{kind}.{name}.npy" for kind, listed in about["arrays"].items() for name in listed]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(names, pool.map(lambda name: files.sha256(folder / name), names)))


def _arrays(cohort):
  rows = {key: getattr(cohort, key) for key in ("observed", "labels", "row_id", "patient_id")}
  # text of pandas is objects, which only pickle could write
  groups = {name: np.asarray(values).astype(str) for name, values in cohort.groups.items()}
  return {"rows": rows, "inputs": cohort.inputs, "groups": groups,
          "references": cohort.references}
