"""Shapley values over modalities of a finished run's predictions, before the rectifier.

"replaced" (default): a modality outside the coalition has the content of other patients who have
it, the pattern of what was recorded stays; so the prediction is the average, plus what the pattern
says, plus what each content says. "removed": it counts as never recorded, so the pattern changes
with it. Up to _EXACT modalities all 2^M coalitions are computed; past that, orders of arrival
are sampled. The patients who stand in are a sample either way: `error` says what another would
change.
"""

import dataclasses
import pathlib

import numpy as np

from crl_jax import progress
from crl_jax.data import cohort as cohort_lib, sources, splits as splits_lib
from crl_jax.serve import predict, predictor
from crl_jax.statistics import shapley

_EXACT = 6           # modalities up to which all coalitions are computed
STAGE = "Explaining test rows of fold {}"    # its name where somebody waits
_BACKGROUND = 64     # other patients whose content stands in
_ORDERS = 64         # sampled orders of arrival past _EXACT
_BATCH = 64          # rows explained at once


@dataclasses.dataclass(frozen=True)
class Explained:
  """Contributions of N rows.

  Attributes:
    modalities, tasks: the M and T names.
    absent: "replaced" | "removed".
    orders: how many orders of arrival were sampled; 0: all coalitions were computed.
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
  modalities: tuple
  tasks: tuple
  absent: str
  orders: int
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


def explain(outputs, probability, weights, cohort, rows, background, absent="replaced", seed=0,
            update=lambda *_: None):
  """Explains rows of a cohort.

  Args:
    outputs: (weights, inputs, observed) -> Outputs with a leading member axis
      (predictor.make_outputs).
    probability: logits -> probabilities, the model's.
    weights: for outputs.
    cohort: data.cohort.Cohort.
    rows: (N,) row indices.
    background: (R,) row indices whose content may stand in: training rows.
    absent: "replaced" | "removed".
    seed: of the background and of sampled orders.
    update: called with (rows done, text).
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
    update(start + keep, "rows")
    parts.append([None if x is None else x[:keep] for x in (*finish(v), *looked)])
  found = [None if p[0] is None else np.concatenate(p) for p in zip(*parts)]
  prediction, nothing, phi, error, attention, gate = found
  return Explained(cohort.modalities, cohort.tasks, absent,
                   0 if len(modalities) <= _EXACT else _ORDERS, cohort.row_id[rows],
                   cohort.patient_id[rows], cohort.observed[rows], prediction, nothing,
                   np.broadcast_to(nothing.mean(0), nothing.shape), phi, error, attention, gate)


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
    Explained.
  Raises:
    OSError, ValueError: the run or the data cannot be read.
  """
  workdir = pathlib.Path(workdir)
  found = predictor.restore(workdir)
  outputs, config = predictor.make_outputs(found.model, found.modalities), found.config
  some = lambda all_rows, seed: np.sort(np.random.default_rng([config.seed, seed]).permutation(
      all_rows)[:max(rows, 1)])
  cohort = sources.build_cohort(config)
  splits = splits_lib.of_config(config, cohort)
  facts = found.facts
  changed = [name for name, kept, now in (
      ("splits", facts["splits_fingerprint"], splits.fingerprint()),
      ("values", facts["fingerprint"], cohort_lib.fingerprint(cohort))) if kept != now]
  if changed:
    raise ValueError(f"The data are not those that {workdir} was made from ({' and '.join(changed)} "
                     "differ): restore the files of data.root, or name new patients with "
                     "--data_root.")
  def one(fold, mine, background):
    name = "Explaining new patients" if fold is None else STAGE.format(fold)
    with progress.stage(name, len(mine[1])) as update:
      return explain(outputs, found.model.probability, _members(found.tree, fold), mine[0], mine[1],
                     background, absent, config.seed, update)
  if data_root:
    new = predict.read_cohort(config, data_root)
    predict.require_same_inputs(found.facts, new, workdir)
    joined = _joined(new, cohort, splits.rows(0, "train"))
    return one(None, (joined, some(np.arange(len(new)), 0)), np.arange(len(new), len(joined)))
  folds = sorted({int(f) for f in found.tree["fold"]})
  share = some(np.concatenate([splits.rows(fold, "test") for fold in folds]), 0)
  parts = [one(fold, (cohort, mine), splits.rows(fold, "train")) for fold in folds
           if len(mine := share[splits.fold[share] == fold])]
  join = lambda name: np.concatenate([getattr(part, name) for part in parts])
  return dataclasses.replace(parts[0], **{
      field.name: join(field.name) for field in dataclasses.fields(Explained)
      if isinstance(getattr(parts[0], field.name), np.ndarray)})


def _members(tree, fold):
  """The weights of one fold's members, or of all."""
  import jax
  keep = np.arange(len(tree["fold"])) if fold is None else np.flatnonzero(tree["fold"] == fold)
  own = {name: tree[name] for name in ("params", "fold", "memory") if name in tree}
  return tree | jax.tree.map(lambda x: np.asarray(x)[keep], own)


def _joined(new, old, rows):
  """The new rows, and after them some training rows to stand in."""
  old = old.take(rows[:2000])
  both = lambda a, b: np.concatenate([a, b])
  return dataclasses.replace(
      new, inputs={m: both(x, old.inputs[m]) for m, x in new.inputs.items()},
      observed=both(new.observed, old.observed), labels=both(new.labels, old.labels),
      row_id=both(new.row_id, old.row_id), patient_id=both(new.patient_id, old.patient_id),
      groups={}, references={})
