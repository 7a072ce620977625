"""One cohort and one split, many variants of a config: what every table of experiments/tables
starts from.

The config itself is a run folder (`run/`, with its report). Every other variant is kept as its
predictions, rectified as a run's are; variants whose shapes agree are members of one program. What
is finished is read again, so a second call goes on where the first one stopped.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time

import ml_collections
import numpy as np
import pandas as pd

from crl_jax import config as config_lib, files, pipeline, run, stopping
from crl_jax.engine import members
from crl_jax.statistics import bootstrap, metrics as metrics_lib
from experiments import sweep

METRICS = ("auroc", "auprc", "brier")


@dataclasses.dataclass(frozen=True)
class Study:
  """A config, its rows, and the folder in which everything about them is kept."""
  config: ml_collections.ConfigDict
  prepared: pipeline.Prepared
  folder: pathlib.Path
  stop: stopping.Stop

  @property
  def cohort(self):
    return self.prepared.cohort

  @property
  def run_folder(self):
    return self.folder / "run"

  @functools.cached_property
  def patients(self):
    """Sorted ids of the patients that the run predicted."""
    return np.unique(pd.read_parquet(self.run_folder / "predictions.parquet",
                                     columns=["patient_id"]).patient_id.to_numpy())

  @functools.cached_property
  def resamples(self):
    """(R, patients) how often each patient is drawn: that of metrics.json, and one draw for all
    variants, so that differences are paired."""
    return bootstrap.resample(len(self.patients), self.config.evaluate.bootstrap, self.config.seed)

  def read(self, name):
    """A JSON file of the run folder."""
    return json.loads((self.run_folder / name).read_text())


def start(config, folder, stop=None):
  """The Study of a config: its run is made, gone on with or read. `stop` (a stopping.Stop) says
  when to end the training of a variant early, with what was trained kept.

  Raises ValueError where the folder was made with other data or splits than today's.
  """
  import contextlib
  import io
  folder = pathlib.Path(folder)
  with contextlib.redirect_stdout(io.StringIO()):
    run.run(config, folder / "run")
  prepared = pipeline.prepare(config)
  _settle(folder, {key: prepared.facts[key] for key in ("fingerprint", "splits_fingerprint")})
  return Study(config, prepared, folder, stop or stopping.Stop())


def _settle(folder, facts):
  """Refuses a folder whose run or variants are of other data; what it was made with is kept beside
  them, because a finished run is shown without its data."""
  kept = folder / "data.json"
  for path in (folder / "run" / "data.json", kept):
    old = json.loads(path.read_text()) if path.exists() else facts
    changed = [key for key in facts if old[key] != facts[key]]
    if changed:
      raise ValueError(f"{folder} was made with other data or splits ({', '.join(changed)} differ "
                       f"from {path}): restore the files of data.root, or name another folder.")
  kept.write_text(json.dumps(facts, indent=1))


def tables(study, variants):
  """name -> predictions table of each variant.

  Args:
    study: Study.
    variants: name -> tuple of "key=value" settings; no setting is the run itself.
  Returns:
    name -> DataFrame as predictions.parquet, without reference predictors.
  """
  configs = {name: config_lib.override(study.config, settings)
             for name, settings in variants.items()}
  absent = {name: variants[name] for name, config in configs.items()
            if config_lib.as_dict(config) != config_lib.as_dict(study.config) and
            not _path(study, config).exists()}
  if absent:
    settings = {",".join(settings): name for name, settings in absent.items()}
    for group in sweep.grouped(study.config, list(settings)):
      _train(study, list(group.values()))
  return {name: _read(study, config) for name, config in configs.items()}


def _train(study, configs):
  """Trains the variants of one program and keeps the predictions of each."""
  prepared = pipeline.prepare(configs[0], study.cohort)
  plans = [plan for v, config in enumerate(configs)
           for plan in members.grid(config, f"variant{v}")]
  folder = _training(study, configs)
  folder.mkdir(parents=True, exist_ok=True)
  began = time.time()
  ready = pipeline.fit(prepared, plans, folder, folder.name, study.stop)
  found = pipeline.predict(prepared, plans, ready)
  for config in configs:
    mine = [m for m, plan in enumerate(plans) if plan.config is config]
    one = dataclasses.replace(prepared, config=config)
    table = pipeline.table(one, [plans[m] for m in mine],
                           {role: [p[m] for m in mine] for role, p in found.items()},
                           references=False)
    path = _path(study, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(path) as part:
      pipeline.correct(one, table)[0].to_parquet(part, index=False)
  (folder / "seconds.json").write_text(json.dumps(
      {"seconds": time.time() - began, "members": len(plans)}))


def curves(study, config):
  """files.history() of the run, or of a variant that was the only one of its program."""
  own = config_lib.as_dict(config) == config_lib.as_dict(study.config)
  return files.history(study.run_folder if own else _training(study, [config]))


def _training(study, configs):
  key = hashlib.sha256("".join(_key(config) for config in configs).encode()).hexdigest()[:12]
  return study.folder / "training" / key


def _read(study, config):
  if config_lib.as_dict(config) == config_lib.as_dict(study.config):
    return pd.read_parquet(study.run_folder / "predictions.parquet")
  return pd.read_parquet(_path(study, config))


def _path(study, config):
  return study.folder / "variants" / f"{_key(config)}.parquet"


def _key(config):
  text = json.dumps(config_lib.as_dict(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Score:
  """A metric of a predictor on test rows, or a paired difference of two.

  Attributes:
    value: float.
    draws: (R,) of it under the study's resamples.
    members: (fold, seed) -> value, of the members where it is defined.
    paired: whether it is a difference.
  """
  value: float
  draws: np.ndarray
  members: dict = dataclasses.field(default_factory=dict)
  paired: bool = False

  @property
  def entry(self):
    """{"value", "lo", "hi"} of bootstrap.interval; of a difference {..., "p"} of
    bootstrap.difference, p to be corrected over a table."""
    return (bootstrap.difference(self.value, self.draws, tail=True) if self.paired else
            bootstrap.interval(self.value, self.draws))

  def __sub__(self, other):
    both = self.members.keys() & other.members.keys()
    return Score(self.value - other.value, self.draws - other.draws,
                 {key: self.members[key] - other.members[key] for key in sorted(both)}, True)


def score(study, table, task, column="p_", rows=None, metrics=METRICS):
  """metric -> Score of a column of a predictions table on its labelled test rows.

  The folds are pooled; the seeds' scores are averaged. Every variant takes the same resamples of
  the patients, so Score - Score is paired.

  Args:
    study: Study.
    table: predictions.
    task: name.
    column: prefix of the predictor's columns.
    rows: (len(table),) bool, a further restriction, or None.
    metrics: names.
  """
  keep = (table.role == "test") & table[f"y_{task}"].notna()
  table = table[keep if rows is None else keep & rows]
  sets = []
  for _, part in table.groupby("seed"):
    y, p = part[f"y_{task}"].to_numpy(), part[f"{column}{task}"].to_numpy()
    index = np.searchsorted(study.patients, part.patient_id.to_numpy())
    sets.append((metrics_lib.scores(y, p, only=metrics),
                 metrics_lib.scores(y, p, study.resamples, index, only=metrics)))
  each = {key: metrics_lib.scores(part[f"y_{task}"].to_numpy(), part[f"{column}{task}"].to_numpy(),
                                  only=metrics) for key, part in table.groupby(["fold", "seed"])}
  if not sets:
    return {m: Score(np.nan, np.full(len(study.resamples), np.nan)) for m in metrics}
  return {m: Score(float(np.mean([value[m][0] for value, _ in sets])),
                   np.mean([draws[m] for _, draws in sets], axis=0),
                   {key: float(v[m][0]) for key, v in each.items() if np.isfinite(v[m][0])})
          for m in metrics}
