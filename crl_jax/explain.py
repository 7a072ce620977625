"""What each modality contributed to the predictions of a finished run, per cohort and per patient:

python -m crl_jax.explain --workdir=RUN [--rows=500] [--absent=replaced|removed]
    [--patients_file=FILE.parquet] [--row_ids=ID,ID --page=FILE.html] [--data_root=DIR]

Writes explain.json and explain.svg into the run folder and makes its report again. Nothing about a
single patient is written but the two files that are asked for by name.

Contributions are Shapley values over modalities of the predicted probability before the rectifier.
"replaced" (default): a modality outside the coalition has the content of other patients who have
it, the pattern of what was recorded stays; so the prediction is the average, plus what the pattern
says, plus what each content says. "removed": it counts as never recorded, so the pattern changes
with it. Up to _EXACT modalities all 2^M coalitions are computed; past that, orders of arrival
are sampled. The patients who stand in are a sample either way: `error` says what another would
change.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import sys

import numpy as np

from crl_jax import stopping
from crl_jax.report import svg
from crl_jax.serve import predictor
from crl_jax.statistics import evaluate, shapley

_EXACT = 6           # modalities up to which all coalitions are computed
_BACKGROUND = 64     # other patients whose content stands in
_ORDERS = 64         # sampled orders of arrival past _EXACT
_BATCH = 64          # rows explained at once
PATTERN = "what was recorded"


@dataclasses.dataclass(frozen=True)
class Explained:
  """Contributions of N rows.

  Attributes:
    row_id, patient_id: (N,).
    observed: (N, M) bool.
    prediction, nothing: (N, T) v of all and of no modality, probabilities.
    average: (N, T) mean of `nothing` over the rows that the same members explained.
    values: (N, M, T) Shapley values, 0 where the modality is unobserved.
    error: (N, M, T) standard error by the patients who stand in and the sampled orders; 0 where
      neither is there.
    attention, gate: (N, M) attention that the fusion pays to a modality's token (over all tokens,
      the pattern's too, they sum to 1) and mean of its gate; NaN where unobserved; None for a model
      without them.
  """
  row_id: np.ndarray
  patient_id: np.ndarray
  observed: np.ndarray
  prediction: np.ndarray
  nothing: np.ndarray
  average: np.ndarray
  values: np.ndarray
  error: np.ndarray
  attention: np.ndarray | None
  gate: np.ndarray | None


def explain(outputs, probability, weights, cohort, rows, background, absent="replaced", seed=0):
  """Explains rows of a cohort.

  Args:
    outputs: (weights, inputs, observed) -> Outputs with a leading member axis
      (inference.make_outputs).
    probability: logits -> probabilities, the model's.
    weights: for outputs.
    cohort: data.cohort.Cohort.
    rows: (N,) row indices.
    background: (R,) row indices whose content may stand in: training rows.
    absent: "replaced" | "removed".
    seed: of the background and of sampled orders.
  Returns:
    Explained.
  """
  import jax
  import jax.numpy as jnp
  modalities = cohort.modalities
  masks, stand_in, finish = _design(len(modalities), absent, seed)
  others = _others(cohort, background, int(stand_in.max()) + 1, seed)

  def values(weights, inputs, observed, masks, stand_in, others):
    def one(pair):
      mask, k = pair
      mixed, seen = inputs, observed & mask
      if absent == "replaced":
        # by name: jit hands a dict's entries over in alphabetical order
        mixed = {name: jnp.where(mask[m], inputs[name], others[name][k])
                 for m, name in enumerate(modalities)}
        seen = observed
      return probability(outputs(weights, mixed, seen).logits).mean(0)
    return jax.lax.map(one, (masks, stand_in))

  values = jax.jit(values)
  looks = jax.jit(lambda weights, inputs, observed: _looks(outputs(weights, inputs, observed),
                                                           observed))
  parts = []
  for start in range(0, len(rows), _BATCH):
    mine = np.resize(rows[start:start + _BATCH], _BATCH)   # one shape, one program
    keep = min(_BATCH, len(rows) - start)
    inputs = {m: cohort.inputs[m][mine] for m in modalities}
    v = np.asarray(values(weights, inputs, cohort.observed[mine], masks, stand_in, others),
                   np.float64)
    looked = jax.tree.map(np.asarray, looks(weights, inputs, cohort.observed[mine]))
    parts.append([None if x is None else x[:keep] for x in (*finish(v), *looked)])
  found = [None if p[0] is None else np.concatenate(p) for p in zip(*parts)]
  prediction, nothing, phi, error, attention, gate = found
  return Explained(cohort.row_id[rows], cohort.patient_id[rows], cohort.observed[rows], prediction,
                   nothing, np.broadcast_to(nothing.mean(0), nothing.shape), phi, error, attention,
                   gate)


def _design(players, absent, seed):
  """(masks (Q, M), stand-in of each (Q,), finish): what is asked of the model, and how its answers
  (Q, B, T) become (prediction, nothing, values, error)."""
  move = lambda x: np.moveaxis(x, 0, 1)   # (M, B, T) -> (B, M, T)
  if players <= _EXACT:
    masks, depth = shapley.coalitions(players), _BACKGROUND if absent == "replaced" else 1
    def finish(v):
      v = v.reshape(depth, len(masks), *v.shape[1:])
      each = np.stack([shapley.exact(one) for one in v])
      error = each.std(0, ddof=1) / np.sqrt(depth) if depth > 1 else np.zeros_like(each[0])
      return v[:, -1].mean(0), v[:, 0].mean(0), move(each.mean(0)), move(error)
    return (np.tile(masks, (depth, 1)), np.repeat(np.arange(depth), len(masks)), finish)
  orders = shapley.permutations(players, _ORDERS, seed)
  chains = shapley.chains(orders)
  def finish(v):
    v = v.reshape(*chains.shape[:2], *v.shape[1:])
    phi, error = shapley.sampled(orders, v)
    return v[:, -1].mean(0), v[:, 0].mean(0), move(phi), move(error)
  pairs = np.arange(_ORDERS) // 2   # an order and its reverse meet the same patient
  return chains.reshape(-1, players), np.repeat(pairs, players + 1), finish


def _others(cohort, background, count, seed):
  """modality -> (count, ...) contents of training rows that have it, drawn per modality; zeros
  where nobody has."""
  rng = np.random.default_rng([seed, 0x0BAC])
  found = {}
  for m, name in enumerate(cohort.modalities):
    have = background[cohort.observed[background, m]]
    x = cohort.inputs[name]
    found[name] = (x[rng.choice(have, count, replace=len(have) < count)] if len(have)
                   else np.zeros((count, *x.shape[1:]), x.dtype))
  return found


def _looks(outputs, observed):
  """(attention, gate), (B, M) each, means over members; None where the model has none."""
  import jax.numpy as jnp
  members, absent = observed.shape[1], jnp.where(observed, 0.0, jnp.nan)
  attention, gate = outputs.named.get("attention"), outputs.named.get("gates")
  if attention is not None:   # (members, B, heads, queries, keys); hidden tokens ask nothing
    attention = attention.mean((0, 2))
    extra = attention.shape[-1] - members
    asks = jnp.concatenate([observed, jnp.ones((len(observed), extra), bool)], 1)[..., None]
    attention = (attention * asks).sum(1) / jnp.maximum(asks.sum(1), 1)
    attention = attention[:, :members] + absent
  if gate is not None:
    gate = gate.mean((0, 3)) + absent
  return attention, gate


def of_run(workdir, rows=500, absent="replaced", data_root=""):
  """Explains test rows of a finished run, each by the members that never saw it; with `data_root`,
  new patients by all members.

  Returns:
    (Explained, modalities, tasks).
  Raises:
    OSError, ValueError: the run or the data cannot be read.
  """
  from crl_jax import run
  from crl_jax.data import splits as splits_lib
  workdir = pathlib.Path(workdir)
  found = predictor.restore(workdir)
  outputs, config = predictor.make_outputs(found.model, found.modalities), found.config
  some = lambda all_rows, seed: np.sort(np.random.default_rng([config.seed, seed]).permutation(
      all_rows)[:max(rows, 1)])
  cohort = run.build_cohort(config)
  splits = splits_lib.assign(cohort.patient_id, cohort.labels, config.splits.folds,
                             config.splits.validation, config.seed)
  if splits.fingerprint() != found.facts["splits_fingerprint"]:
    raise ValueError(f"The data are not those that {workdir} was made from (splits differ): "
                     "restore the files of data.root, or name new patients with --data_root.")
  one = lambda fold, mine, background: explain(
      outputs, found.model.probability, _members(found.tree, fold), mine[0], mine[1], background,
      absent, config.seed)
  if data_root:
    from crl_jax import predict
    new = predict.read_cohort(config, data_root)
    predict.require_same_inputs(found.facts, new, workdir)
    joined = _joined(new, cohort, splits.rows(0, "train"))
    return (one(None, (joined, some(np.arange(len(new)), 0)), np.arange(len(new), len(joined))),
            found.modalities, found.tasks)
  folds = sorted({int(f) for f in found.tree["fold"]})
  share = some(np.concatenate([splits.rows(fold, "test") for fold in folds]), 0)
  parts = [one(fold, (cohort, mine), splits.rows(fold, "train")) for fold in folds
           if len(mine := share[splits.fold[share] == fold])]
  join = lambda name: None if getattr(parts[0], name) is None else np.concatenate(
      [getattr(p, name) for p in parts])
  return (Explained(**{f.name: join(f.name) for f in dataclasses.fields(Explained)}),
          found.modalities, found.tasks)


def _members(tree, fold):
  """The weights of one fold's members, or of all."""
  import jax
  keep = np.arange(len(tree["fold"])) if fold is None else np.flatnonzero(tree["fold"] == fold)
  return dict(tree, params=jax.tree.map(lambda x: np.asarray(x)[keep], tree["params"]),
              fold=np.asarray(tree["fold"])[keep])


def _joined(new, old, rows):
  """The new rows, and after them some training rows to stand in."""
  old = old.take(rows[:2000])
  both = lambda a, b: np.concatenate([a, b])
  return dataclasses.replace(
      new, inputs={m: both(x, old.inputs[m]) for m, x in new.inputs.items()},
      observed=both(new.observed, old.observed), labels=both(new.labels, old.labels),
      row_id=both(new.row_id, old.row_id), patient_id=both(new.patient_id, old.patient_id),
      groups={}, references={})


def summary(found, modalities, tasks, absent, new=False, min_cell=10, resamples=1000, seed=0):
  """The cohort's explanation as JSON types: means over rows with 95% intervals by patient, null
  over fewer than `min_cell` patients. `new`: the rows are not the run's own."""
  patients, patient = np.unique(found.patient_id, return_inverse=True)
  counts = evaluate.resample(len(patients), resamples, seed)

  enough = lambda rows: len(np.unique(patient[rows])) >= min_cell

  def mean(values, rows):
    if not enough(rows):
      reason = f"observed for fewer than {min_cell} explained patients"
      return dict(value=None, lo=None, hi=None, reason=reason)
    total, n = (np.bincount(patient, w, len(patients)) for w in (np.where(rows, values, 0), rows))
    drawn = (counts @ total) / np.maximum(counts @ n, 1)
    lo, hi = np.quantile(drawn[counts @ n > 0], (0.025, 0.975))
    return dict(value=float(values[rows].mean()), lo=float(lo), hi=float(hi))

  every, by_task = np.ones(len(found.row_id), bool), {}
  for t, task in enumerate(tasks):
    pattern = found.nothing[:, t] - found.average[:, t]
    average = float(found.nothing[:, t].mean()) if enough(every) else None
    entry = dict(average=average, contribution={}, signed={})
    whole = [(PATTERN, pattern, every)] if absent == "replaced" else []
    for name, values, rows in (*whole, *(
        (m, found.values[:, i, t], found.observed[:, i]) for i, m in enumerate(modalities))):
      entry["contribution"][name] = mean(np.abs(values), rows)
      entry["signed"][name] = mean(values, rows)
    by_task[task] = entry
  looks = {key: {m: float(np.nanmean(value[:, i])) if enough(found.observed[:, i]) else None
                 for i, m in enumerate(modalities)}
           for key, value in (("attention", found.attention), ("gate", found.gate))
           if value is not None}
  how = (f"from all {2 ** len(modalities)} coalitions" if len(modalities) <= _EXACT else
         f"from {_ORDERS} sampled orders of arrival")
  if found.error.any():
    seen = found.error[found.observed]
    how += (f", with sampled patients standing in: standard error of a single value "
            f"{np.median(seen):.4f} at the median, {seen.max():.4f} at most, the same patients for "
            "all rows; the intervals of means below hold the rows' own chance alone")
  stands = ("A modality outside a coalition has the content of other patients, the pattern stays; "
            f"'{PATTERN}' is how far the pattern alone moves the prediction from the average."
            if absent == "replaced" else
            "A modality outside a coalition counts as never recorded, so its contribution holds "
            "what its being there says.")
  return dict(rows=len(found.row_id), absent=absent, tasks=by_task, **looks, said=[
      f"Shapley values over modalities of the predicted probability before the rectifier, {how}; "
      f"{len(found.row_id)} " + ("new rows, explained by all members. " if new else
      "test rows, each explained by members that never saw it. ") + stands,
      "They describe the model, not the patient: a modality that contributes is one the model "
      "used, not one that would change the outcome.",
      *([] if all(enough(rows) for rows in found.observed.T) else [
          f"A dash: fewer than {min_cell} of these patients have the modality."])])


def figure(brief):
  """The cohort's contributions as one <svg>."""
  rows = [(f"{task}: {name}", [(
      v["value"], v["lo"], v["hi"],
      svg.BLACK if name == PATTERN else svg.SERIES[i % 7], "dot")], None)
          for i, (task, entry) in enumerate(brief["tasks"].items())
          for name, v in entry["contribution"].items()]
  return svg.forest(rows, "Mean absolute contribution of each modality",
                        "change of the predicted probability", include=(0.0,))


def lines(found, modalities, tasks):
  """A table of single rows: one line per row and task."""
  import pandas as pd
  parts = []
  for t, task in enumerate(tasks):
    columns = dict(row_id=found.row_id, task=task, prediction=found.prediction[:, t],
                   average=found.average[:, t], pattern=found.nothing[:, t] - found.average[:, t])
    for i, m in enumerate(modalities):
      columns[f"contribution_{m}"] = found.values[:, i, t]
      columns[f"error_{m}"] = found.error[:, i, t]
      if found.attention is not None:
        columns[f"attention_{m}"] = found.attention[:, i]
      if found.gate is not None:
        columns[f"gate_{m}"] = found.gate[:, i]
    parts.append(pd.DataFrame(columns))
  return pd.concat(parts, ignore_index=True)


def patient_page(path, table, ids, modalities):
  """Writes a page with a figure and a line per asked row and task. Raises ValueError for rows that
  were not explained, by their number."""
  from crl_jax.report import page as report
  known = table[table.row_id.isin(ids)]
  if absent := len(set(ids) - set(known.row_id)):
    raise ValueError(f"{absent} of the {len(ids)} --row_ids are not among the explained rows: "
                     "raise --rows, or name rows of the test folds.")
  parts = []
  for row in known.sort_values(["row_id", "task"]).to_dict("records"):
    steps = [(PATTERN, row["pattern"]), *((m, row[f"contribution_{m}"]) for m in modalities)]
    parts.append(dict(
        title=f"row {row['row_id']}: {row['task']}",
        figure=svg.waterfall(("average", row["average"]), steps, "prediction",
                                 f"{row['task']}: how the prediction came about"),
        heads=["", "changes the probability by", "attention", "gate"],
        lines=[[name, f"{value:+.4f}"] + [
            "-" if not np.isfinite(row.get(f"{key}_{name}", np.nan)) else
            f"{row[f'{key}_{name}']:.3f}" for key in ("attention", "gate")]
            for name, value in steps],
        said=[f"Average {row['average']:.4f}; prediction before the rectifier "
              f"{row['prediction']:.4f}."]))
  page.write_tables(path, "Contributions to single predictions", [
      "This page is about single patients. Handle it as you handle their records."], parts)


def write(workdir, rows=500, absent="replaced", data_root=""):
  """Writes explain.json and explain.svg of a run and makes its report again; returns of_run()'s."""
  from crl_jax import files
  from crl_jax.report import page
  workdir = pathlib.Path(workdir)
  found, modalities, tasks = of_run(workdir, rows, absent, data_root)
  brief = summary(found, modalities, tasks, absent, bool(data_root),
                  files.read(workdir / "config.json")["evaluate"]["min_cell"])
  if not data_root:   # the report is about the run's own test rows
    (workdir / "explain.json").write_text(json.dumps(brief, indent=1, allow_nan=False))
    page.rebuild(workdir)
    # Last: see is_written().
    (workdir / "explain.svg").write_text(svg.standalone(figure(brief)), encoding="utf-8")
  return found, modalities, tasks, brief


def is_written(workdir):
  """True where the run in `workdir` was explained and its report says so."""
  return (pathlib.Path(workdir) / "explain.svg").exists()


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("--workdir", required=True, help="a finished run folder")
  add("--rows", type=int, default=500, help="how many test rows are explained at most")
  add("--absent", choices=("replaced", "removed"), default="replaced",
      help="what stands for a modality outside a coalition")
  add("--patients_file", default="", help="Parquet file: a line per row and task")
  add("--row_ids", default="", help="rows drawn on --page, with commas")
  add("--page", default="", help="HTML file with a figure per row of --row_ids")
  add("--data_root", default="", help="new data instead of the run's own test rows")
  chosen = parser.parse_args()
  if bool(chosen.page) != bool(chosen.row_ids):
    parser.error("--page and --row_ids belong together")
  logging.getLogger("absl").setLevel("WARNING")   # orbax tells of every file it reads
  with stopping.cleanly("crl_jax.explain"):
    _main(chosen)


def _main(chosen):
  try:
    found, modalities, tasks, brief = write(chosen.workdir, chosen.rows, chosen.absent,
                                            chosen.data_root)
    if chosen.patients_file or chosen.page:
      table = lines(found, modalities, tasks)
    if chosen.patients_file:
      table.to_parquet(chosen.patients_file, index=False)
    if chosen.page:
      patient_page(pathlib.Path(chosen.page), table, [int(i) for i in chosen.row_ids.split(",")],
                   modalities)
  except (ValueError, OSError, RuntimeError) as error:
    sys.exit(f"\nError: {error}")
  print("\n".join(brief["said"]))
  for task, entry in brief["tasks"].items():
    print(f"\n{task.upper()}: mean absolute contribution [95% interval by patient]")
    for name, value in entry["contribution"].items():
      print(f"  {name:24} {evaluate.interval_text(value, '.4f')}")


if __name__ == "__main__":
  main()
