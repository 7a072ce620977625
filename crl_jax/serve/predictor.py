"""A finished run as one pure function: raw inputs of new patients -> rectified probabilities."""

import dataclasses
import pathlib
from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax import config as config_lib, files, models, processes
from crl_jax.data import preprocess
from crl_jax.data.cohort import KINDS
from crl_jax.models.record import Batch
from crl_jax.engine import checkpoint, step
from crl_jax.posthoc import rectifier, residuals
from crl_jax.serve import headline as headline_lib

# rows of one call, which stay in a processor's cache; smaller batches are rounded up to a power of
# two
_LARGEST = 256


@dataclasses.dataclass(frozen=True)
class Predictor:
  """What new patients are predicted with.

  Attributes:
    function: (weights, inputs, observed) -> (base, rectified) probabilities (B, T) each; pure.
      inputs: modality -> (B, ...) float32 raw features, NaN where missing; observed (B, M) bool.
    weights: tree of arrays.
    modalities, tasks: names.
    shapes: modality -> shape of one row's raw input.
    members: how many are averaged.
    compiled: `function`, jitted.
    kinds: modality -> key of data.cohort.KINDS; those not named hold numbers.
    headline: serve.headline.Found, or None of a run without one.
    whole: as `function`, of `weights` and `more`, -> (base, rectified, chosen); None of a run
      without a headline.
    more: what `whole` needs besides `weights`.
  """
  function: Callable
  weights: dict
  modalities: tuple
  tasks: tuple
  shapes: dict
  members: int
  compiled: Callable
  kinds: dict = dataclasses.field(default_factory=dict)
  headline: headline_lib.Found | None = None
  whole: Callable | None = None
  more: dict = dataclasses.field(default_factory=dict)

  def __call__(self, inputs, observed):
    """(base, rectified), (N, T) float32 each on the host, of any number of rows; compiled once for
    every power of two up to 256. A modality that `inputs` lacks must be observed for nobody.

    Raises ValueError for inputs of another shape than those of training, naming the modality.
    """
    inputs, observed = self._checked(inputs, np.asarray(observed))
    parts = [self._part({m: x[start:start + _LARGEST] for m, x in inputs.items()},
                        observed[start:start + _LARGEST])
             for start in range(0, max(1, len(observed)), _LARGEST)]
    return tuple(np.concatenate(p) for p in zip(*parts))

  def _checked(self, inputs, observed):
    """Both, with zeros for modalities that nobody has."""
    rows = len(observed)
    if observed.shape != (rows, len(self.modalities)) or observed.dtype != bool:
      raise ValueError(f"observed is {observed.dtype} {observed.shape}; expected bool ({rows}, "
                       f"{len(self.modalities)}), a column for each of {list(self.modalities)}.")
    if unknown := sorted(set(inputs) - set(self.modalities)):
      raise ValueError(f"inputs has {unknown}; the run's modalities are {list(self.modalities)}.")
    found = {}
    for m, name in enumerate(self.modalities):
      expected = (rows, *self.shapes[name])
      if name not in inputs:
        if observed[:, m].any():
          raise ValueError(f"inputs lacks '{name}', which `observed` says {observed[:, m].sum()} "
                           "rows have: bring it, or set its column to False.")
        found[name] = np.zeros(expected, self.dtype(name))
      elif np.shape(inputs[name]) != expected:
        raise ValueError(f"inputs['{name}'] has shape {np.shape(inputs[name])}; the run was trained "
                         f"on (rows, {', '.join(map(str, self.shapes[name]))}), and `observed` has "
                         f"{rows} rows.")
      else:
        found[name] = inputs[name]
    return found, observed

  @property
  def remembers(self):
    """How many training patients' rows `weights` holds embeddings of, per member."""
    return int(self.weights["memory"][1].valid.sum(-1).max()) if "memory" in self.weights else 0

  def dtype(self, modality):
    """Of the raw input of `modality`."""
    return np.dtype(KINDS[self.kinds.get(modality, "vector")][1])

  def stats(self, fold):
    """The preprocessing of a fold, modality -> arrays on the host."""
    return jax.tree.map(lambda x: np.asarray(x[fold]), self.weights["stats"])

  def _part(self, inputs, observed):
    count = len(observed)
    fill = (1 << (count - 1).bit_length()) - count
    pad = lambda x: np.concatenate([x, np.zeros((fill, *x.shape[1:]), x.dtype)]) if fill else x
    found = self.compiled(self.weights, {m: pad(inputs[m]) for m in self.modalities},
                          pad(observed))
    return [np.asarray(p)[:count] for p in found]


def save(folder, ready, plans, stats, fingerprint):
  """Keeps the trained members (members.Ready) of a run, the preprocessing of their folds and what
  the model keeps of their training rows; `fingerprint`: see pipeline.fit()."""
  first = lambda x: np.asarray(x)[:len(plans)]
  kept = dict(ready.prepared or {})
  if not ready.remembers:
    kept.pop("support", None)   # it served training alone
  checkpoint.save(folder, 0, {
      "params": jax.tree.map(first, ready.programs.to_host(ready.params)),
      "fold": np.array([plan.fold for plan in plans], np.int32),
      "stats": preprocess.stack(stats), **({"prepared": checkpoint.plain(kept)} if kept else {})},
      keep=1, fingerprint=fingerprint)


@dataclasses.dataclass(frozen=True)
class Restored:
  """A finished run's parts: config, data.json, rectifier.json, models.record.Model, the tree that
  `save` kept (params, fold, stats; see remembered()), names of modalities and tasks."""
  config: object
  facts: dict
  rectifiers: dict
  model: models.record.Model
  tree: dict
  modalities: tuple
  tasks: tuple


def restore(workdir):
  """The Restored of a finished run folder. Raises as `load`."""
  processes.keep_compiled()
  workdir = pathlib.Path(workdir)
  config, facts, rectifiers = read_run(workdir)
  written, = files.of_finished(workdir, "config.json")   # perhaps in an older form
  try:
    found = checkpoint.restore(workdir / "checkpoints" / "final", fingerprint={
        "config": config_lib.digest(written), "data": facts["fingerprint"],
        "splits": facts["splits_fingerprint"]})
  except ValueError as error:
    raise OSError(f"config.json or data.json of {workdir} is not what its members were trained "
                  "with: restore it, or make the run again.") from error
  if found is None:
    raise OSError(f"{workdir} has no final parameters: delete its metrics.json and run the same "
                  "main command again, which makes them of its checkpoints.")
  modalities, tasks = tuple(facts["modalities"]), tuple(facts["tasks"])
  widths = preprocess.widths(jax.tree.map(lambda x: x[0], found[1]["stats"]))
  patterns = tuple(entry["pattern"] for entry in facts["patterns"])
  model = models.build(config, models.Spec(
      modalities, tasks, {m: (*facts["shapes"][m][:-1], widths[m]) for m in modalities}, patterns,
      facts["kinds"]))
  return Restored(config, facts, rectifiers, model, remembered(model, found[1]), modalities, tasks)


def remembered(model, tree):
  """The tree that `save` kept, with `memory` in place of the support rows: what the row part of
  every member makes of them, without their inputs and labels. So a patient costs a row and a
  join."""
  if not model.join or not model.remembers:
    return tree
  kept = jax.tree.map(jnp.asarray, tree["prepared"])
  kept["support"] = Batch(**kept["support"])
  def of_member(params, fold):
    return step.memory(params, jax.tree.map(lambda x: x[fold], kept), model=model,
                       mode=model.stages[-1].mode)
  outputs, rows = jax.jit(jax.vmap(of_member))(tree["params"], jnp.asarray(tree["fold"]))
  rows = rows.replace(labels=jnp.full_like(rows.labels, jnp.nan),
                      patient=jnp.zeros_like(rows.patient))
  rest = {name: x for name, x in kept.items() if name != "support"}
  return ({name: x for name, x in tree.items() if name != "prepared"} | {"memory": (outputs, rows)}
          | ({"prepared": rest} if rest else {}))


def load(workdir):
  """The Predictor of a finished run folder.

  Raises:
    OSError: it is not finished, or its parameters are absent or damaged.
    ValueError: another version of crl_jax made it.
  """
  run = restore(workdir)
  rule = rectifier.from_dict(run.rectifiers["pooled"], run.tasks)
  weights = dict(run.tree, shift=_shift(rule, run.rectifiers["enabled"]), patterns=np.array(
      [[bool(p >> m & 1) for m in range(len(run.modalities))] for p in rule.patterns]))
  function = _function(run.model, run.modalities, rule.scale)
  shapes = {m: tuple(shape) for m, shape in run.facts["shapes"].items()}
  headline, whole, more = headline_lib.of_run(workdir), None, {}
  if headline:
    more["headline"], chosen = headline_lib.on_device(headline, run.modalities,
                                                      run.facts["kinds"])

    def whole(weights, inputs, observed):
      base, rectified = function(weights, inputs, observed)
      return base, rectified, chosen(weights["headline"], inputs, observed, rectified)
  return Predictor(function, jax.device_put(weights), run.modalities, run.tasks, shapes,
                   len(run.tree["fold"]), jax.jit(function), run.facts["kinds"], headline, whole,
                   more)


def read_run(workdir):
  """(config, data.json, rectifier.json) of a finished run.

  Raises OSError where it is not finished.
  """
  config, facts, rectifiers = files.of_finished(workdir, "config.json", "data.json",
                                                "rectifier.json")
  return config_lib.from_dict(config), facts, rectifiers


def _shift(rule, enabled):
  """(P + 1, T) what is added in each pattern; last, in one that calibration never saw."""
  table = rule.table.T
  return np.where((np.abs(table) > rule.threshold) & enabled, table, 0.0).astype(np.float32)


def make_outputs(model, modalities):
  """(weights, inputs, observed) -> models.record.Outputs of every member, with a leading member
  axis; pure. weights: params, fold and stats, prepared and memory, as restore() gives them."""
  def outputs(weights, inputs, observed):
    rows = observed.shape[0]

    def scaled(stats):
      return {name: preprocess.apply(stats[name], inputs[name], observed[:, m])
              for m, name in enumerate(modalities)}
    by_fold = jax.vmap(scaled)(weights["stats"])

    def member(params, fold, met):
      none, tasks = jnp.zeros(rows, jnp.int32), met[1].labels.shape[1] if met else 1
      batch = Batch(jax.tree.map(lambda x: x[fold], by_fold), observed,
                    jnp.full((rows, tasks), jnp.nan), jnp.ones(rows, bool), none, none)
      prepared = jax.tree.map(lambda x: x[fold], weights.get("prepared"))
      return step.evaluated(params, batch, met, prepared, model=model, mode=model.stages[-1].mode)
    return jax.vmap(member)(weights["params"], weights["fold"], weights.get("memory"))
  return outputs


def _function(model, modalities, scale):
  outputs = make_outputs(model, modalities)

  def predict(weights, inputs, observed):
    base = model.probability(outputs(weights, inputs, observed).logits).mean(0)

    same = (observed[:, None] == weights["patterns"][None]).all(-1)
    slot = jnp.where(same.any(1), same.argmax(1), same.shape[1])
    shift = weights["shift"][slot]
    if scale == "logit":
      logit = jax.scipy.special.logit(jnp.clip(base, residuals.EDGE, 1 - residuals.EDGE))
      return base, jnp.where(shift == 0, base, jax.nn.sigmoid(logit + shift))
    return base, jnp.clip(base + shift, 0.0, 1.0)
  return predict
