"""Predictions of new patients with a finished run: its members averaged, its own preprocessing and
its pooled rectifier. Any modality may be missing, in patterns that training never saw."""

import dataclasses
import pathlib

from absl import logging
import numpy as np
import pandas as pd

from crl_jax import files
from crl_jax.data import cohort as cohort_lib, preprocess, sources
from crl_jax.serve import headline, predictor as predictor_lib
from crl_jax.statistics import conformal, evaluate, predictions


@dataclasses.dataclass(frozen=True)
class Predicted:
  """What predict() found.

  Attributes:
    table: the predictions, as written, with fold, seed and role.
    metrics: evaluate.evaluate() of them; None where no outcome is known.
    rectifiers: the run's rectifier.json.
    facts: the run's data.json with what is known of the new cohort.
    members: how many were averaged.
    min_cell: patients of a group at least, for its numbers to be told.
  """
  table: pd.DataFrame
  metrics: dict | None
  rectifiers: dict
  facts: dict
  members: int
  min_cell: int


def predict(workdir, root, output):
  """Writes predictions for the patients of `root`; scores them where outcomes are known.

  Args:
    workdir: a finished run folder.
    root: folder of the run's kind of data.
    output: path of the Parquet file: row_id, patient_id, pattern, unseen_pattern, group_*,
      y_<task>, p_base_<task>, p_<task>, and of a run with a headline p_chosen_<task>, what it was
      chosen from and the yardsticks; conformal_<task>_0 and _1: a label is in the prediction set at
      level alpha where it exceeds alpha.
  Returns:
    Predicted.
  Raises:
    ValueError, CohortError, OSError: nothing is written.
  """
  workdir, output = pathlib.Path(workdir), pathlib.Path(output)
  if output.suffix != ".parquet":
    raise ValueError(f"--output must end in .parquet, not '{output.name}'.")
  config, facts, rectifiers = predictor_lib.read_run(workdir)
  cohort = read_cohort(config, root)
  require_same_inputs(facts, cohort, workdir)
  absent = sorted(set(cohort.info.get("absent_tables", ())) - set(facts.get("absent_tables", ())))
  if absent:
    logging.warning("Tables that the run was trained with are absent in %s: %s. What they feed "
                    "counts as missing.", root, ", ".join(absent))
  warn_of_own_patients(workdir, cohort)
  predictor = predictor_lib.load(workdir)
  far = preprocess.out_of_range(predictor.stats(0), cohort.inputs, cohort.observed,
                                cohort.modalities, cohort.features)
  if far:
    logging.warning("More than 1%% of the values lie far outside the training range in these "
                    "features (%d): check their units. %s", len(far),
                    ", ".join(f"'{feature}' of '{modality}'" for modality, feature, _ in far))
  base, final = predictor(cohort.inputs, cohort.observed)
  trained = set(facts["trained_patterns"])
  beside, more = headline.predict(predictor.headline, final.astype(np.float64), cohort,
                                  facts["kinds"]) if predictor.headline else ({}, {})
  table = predictions.part(cohort, np.arange(len(cohort)), 0, 0, "test", base, beside | more)
  table = table.assign(unseen_pattern=[int(p) not in trained for p in cohort.pattern],
                       **{f"p_{task}": final[:, t] for t, task in enumerate(cohort.tasks)})
  table = conformal.of_new(files.read(workdir / "predictions.parquet"), table, cohort.tasks,
                           config.evaluate)
  if table.unseen_pattern.any():
    logging.warning("%d of %d rows have a pattern that training never saw: corrected by the mean "
                    "over patterns (column unseen_pattern).", table.unseen_pattern.sum(),
                    len(table))
  output.parent.mkdir(parents=True, exist_ok=True)
  with files.replaced(output) as part:
    table.drop(columns=["fold", "seed", "role"]).to_parquet(part, index=False)
  known = np.isfinite(cohort.labels).any()
  return Predicted(table, evaluate.evaluate(table, cohort.tasks, config, config.seed,
                                            cohort.modalities) if known else None,
                   rectifiers, {**facts, **cohort.info}, predictor.members,
                   config.evaluate.min_cell)


def read_cohort(config, root):
  """The cohort at `root`: a saved one, or built from the source's files by the run's own settings.
  """
  if not pathlib.Path(root).is_dir():
    raise OSError(f"--data_root {root} is no folder.")
  if (pathlib.Path(root) / "cohort.json").exists():
    return cohort_lib.validate(cohort_lib.load(root))
  with config.unlocked():
    config.data.root = str(root)
  return sources.build_cohort(config, for_prediction=True)


def warn_of_own_patients(workdir, cohort):
  """Logs how many rows have the id of a patient whom some member of the run held out: then these
  are the data that the run was trained on, and their metrics are too good."""
  if not (path := workdir / "predictions.parquet").exists():
    return
  own = np.isin(cohort.patient_id, files.read(path).patient_id)
  if own.any():
    logging.warning("%d of %d rows have the patient_id of one of the run's own patients. Where "
                    "they are the same people, members were trained on them and their metrics are "
                    "too good: those of new patients are in the run's report.", own.sum(), len(own))


def require_same_inputs(facts, cohort, workdir):
  """Raises ValueError unless modalities, features, tasks and the BERT that read the notes are those
  the run was trained on."""
  for name, old, new in (("modalities", facts["modalities"], cohort.modalities),
                         ("tasks", facts["tasks"], cohort.tasks),
                         *((f"features of '{m}'", facts["features"][m], cohort.features.get(m, ()))
                           for m in facts["modalities"])):
    extra, absent = sorted(set(new) - set(old)), sorted(set(old) - set(new))
    if list(old) != list(new):
      raise ValueError(f"The {name} differ from those of {workdir}: not in the run {extra[:5]}, "
                       f"not in the data {absent[:5]}" +
                       ("" if extra or absent else ", or another order") +
                       ". Predict with data of the run's own source and version.")
  read_by = lambda about, m: about.get("modality_facts", {}).get(m, {}).get("model")
  for m in facts["modalities"]:
    old, new = read_by(facts, m), read_by(cohort.info, m)
    if old and new and old != new:
      raise ValueError(f"The BERT that reads '{m}' is not the one that {workdir} was trained with "
                       f"(SHA-256 {new[:12]}, not {old[:12]}): put that one's files in "
                       "config.text.model's folder.")
