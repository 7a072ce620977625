"""The one order of steps: prepare -> fit -> table -> correct -> judge. Runs, studies, sweeps and
benchmarks call it; nobody else deals splits, fits preprocessing or joins members to a table."""

import dataclasses
import functools

import ml_collections
import pandas as pd

from crl_jax import processes, progress, stopping
from crl_jax.data import facts, preprocess, sources, splits as splits_lib
from crl_jax.data.cohort import Cohort
from crl_jax.engine import kept as kept_lib, members, writer, yardsticks
from crl_jax.posthoc import headline, rectifier
from crl_jax.statistics import conformal, evaluate, informative, predictions


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Rows that members can be trained on.

  Attributes:
    config: the whole tree.
    cohort: data.cohort.Cohort.
    splits: data.splits.Splits.
    rows: per fold of the members, role -> (n,) row indices.
    stats: per fold, the preprocessing fitted on its training rows.
  """
  config: ml_collections.ConfigDict
  cohort: Cohort
  splits: splits_lib.Splits
  rows: list
  stats: list

  @functools.cached_property
  def facts(self):
    """What data.json says of the cohort and its splits."""
    return facts.describe(self.cohort, self.splits, len(self.rows))

  @property
  def fingerprints(self):
    """What a training on these rows depends on, besides its config: name -> SHA-256."""
    return {"data": self.facts["fingerprint"], "splits": self.facts["splits_fingerprint"]}


_TRAIN, _PREDICT, _EVALUATE = "Training", "Predicting held-out rows", "Evaluating"
_INFORMATIVE, _YARDSTICKS = "Is the missingness informative?", "Yardsticks of fold {}"


def stages(config):
  """The names of what fit(), predict(), table() and judge() tell that they are doing, in order."""
  c = config.evaluate
  return [_TRAIN, _PREDICT,
          *(_YARDSTICKS.format(fold) for fold in range(config.members.folds) if c.yardsticks),
          _EVALUATE, *([_INFORMATIVE] if c.informative else [])]


def prepare(config, cohort=None):
  """The Prepared rows of a config: its cohort (`cohort`, where somebody has it already) dealt into
  folds and roles, with each fold's preprocessing. Raises ValueError, CohortError."""
  if cohort is None:
    with progress.stage("Reading the cohort"):
      cohort = sources.build_cohort(config)
  splits = splits_lib.of_config(config, cohort)
  rows = [{role: splits.rows(fold, role) for role in splits_lib.ROLES}
          for fold in range(config.members.folds)]
  stats = preprocess.fit_folds(rows=[fold["train"] for fold in rows],
                               **preprocess.of_cohort(cohort, config.preprocess))
  return Prepared(config, cohort, splits, rows, stats)


def fit(prepared, plans, folder, settings, stop):
  """Trains members, or goes on where `folder` says they were. Curves go to its metrics.jsonl.

  Args:
    prepared: Prepared.
    plans: list of engine.members.Plan.
    folder: an existing folder.
    settings: a digest of the settings that the checkpoints depend on.
    stop: stopping.Stop, asked before every epoch.
  Returns:
    engine.members.Ready.
  Raises:
    as engine.members.fit(); stopping.Interrupted once all that was trained is saved.
  """
  config = plans[0].config
  epochs = members.epochs(config, prepared.cohort, prepared.stats)
  log = writer.Writer(folder) if processes.leader() else writer.Silent()
  with log, progress.stage(_TRAIN, epochs) as bar, stop.after_epoch():
    ready = members.fit(plans, prepared.cohort, prepared.rows, prepared.stats,
                        folder / "checkpoints", {"config": settings, **prepared.fingerprints}, log,
                        bar, lambda: processes.agreed(stop()))
    if processes.agreed(stop()):   # asked for during the last epoch
      raise stopping.Interrupted
  return ready


def predict(prepared, plans, ready, roles=("val", "test")):
  """role -> per member, (n, T) float32 probabilities of its held-out rows."""
  with progress.stage(_PREDICT):
    return {role: ready.predict([prepared.rows[plan.fold][role] for plan in plans])
            for role in roles}


def table(prepared, plans, base, references=True, kept=None):
  """The predictions table of members, before any correction.

  Args:
    prepared: Prepared; its config says whether seeds are averaged and yardsticks fitted.
    plans: those members.
    base: role -> their probabilities, from predict().
    references: with the cohort's own predictors and the yardsticks.
    kept: a list to which each fold's engine.kept.of_fold is appended, if any.
  Returns:
    DataFrame, see statistics.predictions; its attrs["yardsticks"] hold a fold's settings of each.
  """
  parts, chosen = [], []
  for fold, rows in enumerate(prepared.rows):
    mine = [m for m, plan in enumerate(plans) if plan.fold == fold]
    beside, settings = (_references(prepared, fold, kept) if references else
                        (dict.fromkeys(base, {}), {}))
    chosen.append(settings)
    parts.append(predictions.of_fold(
        prepared.cohort, rows, fold, [plans[m].seed for m in mine],
        {role: [found[m] for m in mine] for role, found in base.items()},
        prepared.config.members.ensemble, beside))
  table = pd.concat(parts, ignore_index=True)
  if any(chosen):
    table.attrs["yardsticks"] = chosen
  return table


def _references(prepared, fold, kept):
  """(role -> name -> (n, T) of the predictors that came with the cohort and of the yardsticks, what
  was chosen for these)."""
  cohort, rows, config = prepared.cohort, prepared.rows[fold], prepared.config
  found = {role: {name: p[rows[role]] for name, p in cohort.references.items()}
           for role in ("val", "test")}
  def keep(*fitted):
    if kept is not None and (arrays := kept_lib.of_fold(*fitted)):
      kept.append(arrays)
  if config.evaluate.yardsticks:
    with progress.stage(_YARDSTICKS.format(fold)):
      theirs, chosen = yardsticks.of_cohort(cohort, prepared.stats[fold], rows, config.preprocess,
                                            config.seed, keep)
    return {role: p | theirs[role] for role, p in found.items()}, chosen
  return found, {}


def correct(prepared, table):
  """(table with p_<task>, the columns of posthoc.headline and of statistics.conformal, and in its
  attrs["headline"] what the former told; the rectifiers as plain dicts)."""
  cohort, config = prepared.cohort, prepared.config
  table, rectifiers = rectifier.rectify_table(table, cohort.tasks, cohort.modalities,
                                              config.rectifier, config.seed)
  table, rules = headline.add(table, cohort.tasks, config.headline, config.seed)
  if rules:
    table.attrs["headline"] = rules
  return conformal.add(table, cohort.tasks, config.evaluate), rectifiers


def judge(prepared, table):
  """The content of metrics.json; see statistics.evaluate.evaluate and informative.study."""
  cohort, config = prepared.cohort, prepared.config
  with progress.stage(_EVALUATE):
    metrics = evaluate.evaluate(table, cohort.tasks, config, config.seed, cohort.modalities)
  if "yardsticks" in table.attrs:
    metrics["yardsticks"] = yardsticks.described(table.attrs["yardsticks"], cohort.tasks)
  if "headline" in table.attrs:
    metrics["headline"] = headline.summary(table.attrs["headline"])
  if config.evaluate.informative:
    with progress.stage(_INFORMATIVE):
      metrics["informative"] = informative.study(cohort, seed=config.seed,
                                                 min_cell=config.evaluate.min_cell)
  return metrics
