"""Predicts new patients with a finished run:
python -m crl_jax.predict --workdir=RUN --data_root=DIR --output=FILE.parquet.

The run's members are averaged; its own preprocessing and its pooled rectifier are applied. Any
modality may be missing, in patterns that training never saw.
"""

import pathlib
import sys

from absl import app, flags, logging
import numpy as np

from crl_jax import stopping

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run folder.", required=True)
_ROOT = flags.DEFINE_string(
    "data_root", None, "New data: the source's files, or a folder of data.cohort.save().",
    required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Parquet file to write.", required=True)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unknown argument '{argv[1]}'.")
  logging.set_verbosity(logging.WARNING)   # orbax tells of every file it reads
  with stopping.cleanly("crl_jax.predict"):
    try:
      predict(_WORKDIR.value, _ROOT.value, _OUTPUT.value)
    except (ValueError, OSError, RuntimeError) as error:
      sys.exit(f"\nError: {error}")


def predict(workdir, root, output):
  """Writes predictions for the patients of `root`; prints the metrics table where outcomes are
  known.

  Args:
    workdir: a finished run folder.
    root: folder of the run's kind of data.
    output: path of the Parquet file: row_id, patient_id, pattern, unseen_pattern, group_*,
      y_<task>, p_base_<task>, p_<task>.
  Returns:
    the table written.
  Raises:
    ValueError, CohortError, OSError: nothing is written.
  """
  from crl_jax.data import preprocess
  from crl_jax.serve import predictor as inference
  from crl_jax.statistics import evaluate, predictions
  workdir, output = pathlib.Path(workdir), pathlib.Path(output)
  if output.suffix != ".parquet":
    raise ValueError(f"--output must end in .parquet, not '{output.name}'.")
  config, facts, rectifiers = inference.read_run(workdir)
  cohort = read_cohort(config, root)
  require_same_inputs(facts, cohort, workdir)
  absent = sorted(set(cohort.info.get("absent_tables", ())) - set(facts.get("absent_tables", ())))
  if absent:
    logging.warning("Tables that the run was trained with are absent in %s: %s. What they feed "
                    "counts as missing.", root, ", ".join(absent))
  warn_of_own_patients(workdir, cohort)
  predictor = inference.load(workdir)
  far = preprocess.out_of_range(predictor.stats(0), cohort.inputs, cohort.observed,
                                cohort.modalities, cohort.features)
  if far:
    logging.warning("More than 1%% of the values lie far outside the training range in these "
                    "features (%d): check their units. %s", len(far),
                    ", ".join(f"'{feature}' of '{modality}'" for modality, feature, _ in far))
  base, final = predictor(cohort.inputs, cohort.observed)
  trained = set(facts["trained_patterns"])
  table = predictions.part(cohort, np.arange(len(cohort)), 0, 0, "test", base, {})
  table = table.assign(unseen_pattern=[int(p) not in trained for p in cohort.pattern],
                       **{f"p_{task}": final[:, t] for t, task in enumerate(cohort.tasks)})
  if table.unseen_pattern.any():
    logging.warning("%d of %d rows have a pattern that training never saw: corrected by the mean "
                    "over patterns (column unseen_pattern).", table.unseen_pattern.sum(),
                    len(table))
  output.parent.mkdir(parents=True, exist_ok=True)
  part = output.with_suffix(".part")
  table.drop(columns=["fold", "seed", "role"]).to_parquet(part, index=False)
  part.replace(output)
  print(f"{len(table)} rows, members averaged: {predictor.members} -> {output}")
  if np.isfinite(cohort.labels).any():
    metrics = evaluate.evaluate(table, cohort.tasks, config, config.seed, cohort.modalities)
    print(evaluate.table(metrics, rectifiers, {**facts, **cohort.info}))
  else:
    print("No outcome is known for these rows: no metrics.")
  return table


def read_cohort(config, root):
  """The cohort at `root`: a saved one, or built from the source's files by the run's own settings.
  """
  from crl_jax import run
  from crl_jax.data import cohort as cohort_lib
  if not pathlib.Path(root).is_dir():
    raise OSError(f"--data_root {root} is no folder.")
  if (pathlib.Path(root) / "cohort.json").exists():
    return cohort_lib.validate(cohort_lib.load(root))
  with config.unlocked():
    config.data.root = str(root)
  return run.build_cohort(config, for_prediction=True)


def warn_of_own_patients(workdir, cohort):
  """Logs how many rows have the id of a patient whom some member of the run held out: then these
  are the data that the run was trained on, and their metrics are too good."""
  if not (path := workdir / "predictions.parquet").exists():
    return
  from crl_jax import files
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


if __name__ == "__main__":
  app.run(main)
