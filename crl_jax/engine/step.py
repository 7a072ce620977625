"""The one pure step, and one epoch of one member as a pure function of arrays; programs.py compiles
them, loop.py drives them."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from crl_jax.engine import validation
from crl_jax.models.parts import losses
from crl_jax.models.record import Batch, Stage

_WHOLE = Stage("", 0, 0.0, {}, None)   # every parameter, all terms in one step


@flax.struct.dataclass
class TrainState:
  """Everything a step reads and writes.

  Attributes:
    step: () int32, over all phases.
    failed: () int32, how many of the last steps of this phase in a row were not finite.
    params: the trained parameters, float32.
    opt_state: optax state.
    average: exponential moving average of params, or None.
    rng: (2,) uint32, data of the member's root key; step t uses fold_in(root, t).
    learning_rate: () of the current phase.
    weights: loss term -> () weight in the current phase.
    weight_decay: () of AdamW.
    vary: name -> () the model's numbers that may differ between members (Model.vary).
  """
  step: jnp.ndarray
  failed: jnp.ndarray
  params: dict
  opt_state: tuple
  average: dict | None
  rng: jnp.ndarray
  learning_rate: jnp.ndarray
  weights: dict
  weight_decay: jnp.ndarray
  vary: dict

  @property
  def evaluated(self):
    """The parameters that validation and prediction use."""
    return self.params if self.average is None else self.average


@flax.struct.dataclass
class Carried(TrainState):
  """The state of a model with hooks; `carry`: what they keep."""
  carry: dict


@flax.struct.dataclass
class Member:
  """One member of a run in training: the state, its best parameters so far and where it stands.

  Attributes:
    state: TrainState.
    best: parameters with the best validation score of this phase.
    best_score: () higher is better.
    best_epoch, epoch: () int32, counted in this phase.
    total: () int32, epochs done in all phases.
    patience: () int32, epochs without a better score that end the phase; -1: no early stopping, the
      last parameters count as best.
    stopped: () bool, this phase is over for this member.
  """
  state: TrainState
  best: dict
  best_score: jnp.ndarray
  best_epoch: jnp.ndarray
  epoch: jnp.ndarray
  total: jnp.ndarray
  patience: jnp.ndarray
  stopped: jnp.ndarray


@flax.struct.dataclass
class Split:
  """A member's rows: train (R,), val (V,) int32, -1 padded at the end; fold: () int32, whose
  preprocessing it sees."""
  train: jnp.ndarray
  val: jnp.ndarray
  fold: jnp.ndarray


def make_optimizer(config):
  """Adam on clipped gradients, without learning rate and weight decay, which a state carries. Its
  update() is told the gradients' `norm`, which a step knows."""
  most = config.train.clip_norm

  def clip(gradients, state, params=None, *, norm, **_):
    scale = jnp.minimum(1.0, most / norm)
    return jax.tree.map(lambda g: scale * g, gradients), state

  return optax.chain(
      optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), clip),
      optax.scale_by_adam())


def init_member(model, optimizer, rng, weight_decay, vary, ema, pretrained=()):
  """A Member before its first phase (see enter_stage), with parameters drawn from the key `rng` but
  for the values `pretrained` of model.pretrained. weight_decay, vary: see TrainState.

  Raises ValueError where a stage, or model.fixed, names a path that no parameter has.
  """
  init_rng, step_rng = jax.random.split(rng)
  params = model.init(init_rng)
  for part, values in zip(model.pretrained, pretrained, strict=True):
    params = _replaced(params, part.path, values)
  _require_paths(model, params)
  zero = jnp.int32(0)
  common = (zero, zero, params, optimizer.init(params), params if ema else None,
            jax.random.key_data(step_rng), jnp.float32(0),
            {k: jnp.float32(0) for k in terms(model.stages)}, weight_decay, vary)
  state = Carried(*common, model.hooks.start(params)) if model.hooks else TrainState(*common)
  return Member(state, params, jnp.float32(-jnp.inf), zero, zero, zero, zero, jnp.bool_(False))


def _replaced(tree, path, values):
  """`tree` with `values` at `path`. Raises ValueError where they do not fit."""
  if path:
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], values)}
  if jax.tree.map(jnp.shape, tree) != jax.tree.map(jnp.shape, values):
    raise ValueError("Pretrained parameters have other names or shapes than the model's.")
  return values


def _require_paths(model, params):
  has = [_keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  told = [model.fixed, *(s.trains for s in model.stages),
          *(paths for s in model.stages for _, paths in s.turns)]
  if absent := [p for paths in told for p in paths if not any(_begins(k, (p,)) for k in has)]:
    raise ValueError(f"The model has no parameter at {absent}.")


def terms(stages):
  """The names of the loss terms of all stages: a state has a weight for each of them in all."""
  return sorted({term for stage in stages for term in stage.weights})


def stage_values(stage, terms=()):
  """(learning rate, weights, patience) of a Stage as arrays, for enter_stage(). `terms`: terms() of
  it and the other stages."""
  return (np.float32(stage.learning_rate),
          {k: np.float32(stage.weights.get(k, 0.0)) for k in (*terms, *stage.weights)},
          np.int32(-1 if stage.patience is None else stage.patience))


def enter_stage(member, values, prepared=None, *, model, optimizer, stage=_WHOLE):
  """Starts a phase from the best parameters, or what the model's hooks make of them: its rate and
  weights, fresh optimizer moments. `prepared`: see train_step()."""
  learning_rate, weights, patience = values
  state, params = member.state, member.best
  if model.hooks:
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), 0xBE61)
    params, carry = model.hooks.begin(params, state.carry, prepared,
                                      jax.random.fold_in(rng, member.total), stage.mode)
    state = state.replace(carry=carry)
  state = state.replace(
      params=params, opt_state=optimizer.init(params),
      average=None if state.average is None else params,
      failed=jnp.int32(0), learning_rate=learning_rate, weights=weights)
  return member.replace(
      state=state, best=params, best_score=jnp.float32(-jnp.inf), best_epoch=jnp.int32(0),
      epoch=jnp.int32(0), patience=patience, stopped=jnp.bool_(False))


def train_step(state, batch, prepared=None, *, stage=_WHOLE, **how):
  """One batch: an optimizer step, or one for each of stage.turns, with the same noise. Arguments
  and results as of one_step(); the batch fails where any of its turns does."""
  if not stage.turns:
    return one_step(state, batch, prepared, stage=stage, trains=stage.trains, **how)
  before, scalars, failed, loss = state, {}, jnp.bool_(False), 0.0
  for terms, trains in stage.turns:
    state, found = one_step(state.replace(step=before.step, failed=jnp.int32(0)), batch, prepared,
                            stage=stage, trains=trains, terms=terms, **how)
    scalars, failed, loss = scalars | found, failed | (state.failed > 0), loss + found["loss"]
  count = jnp.where(scalars["rows"] > 0, jnp.where(failed, before.failed + 1, 0), before.failed)
  return state.replace(failed=count), dict(scalars, failed=count, loss=loss)


def one_step(state, batch, prepared=None, *, model, optimizer, layout, ema=0.0, dtype=jnp.float32,
             microbatches=1, stage=_WHOLE, trains=(), terms=None):
  """One optimizer step.

  Args:
    state: TrainState.
    batch: Batch, this device's share of it in a per-device program.
    prepared: what the model keeps of the training rows of this member's fold, or None.
    model: models.record.Model.
    optimizer: from make_optimizer().
    layout: layout.Layout; sums and negatives go over the whole batch.
    ema: decay of state.average.
    dtype: of the model's arithmetic; parameters, losses and updates stay float32.
    microbatches: parts of the batch whose activations are held one at a time. The forward pass is
      run twice; losses, global negatives included, are those of the whole batch.
    stage: the phase, whose mode is read.
    trains: paths of the parameters that alone are trained; (): all but model.fixed. The others keep
      their values, moments and averages to the bit.
    terms: names of the loss terms that count; None: all.
  Returns:
    (new state, scalars). A step with a non-finite loss or gradient changes nothing but the step
    counts, one without a single row nothing at all.
  Raises:
    ValueError: (when traced) the model returns a loss term that the phase gives no weight.
  """
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  # each device holds its rows' part of the sums; the mean over devices then restores the whole
  share = jax.lax.axis_size(layout.axis) if layout.axis else 1

  def apply(params, batch):
    outputs = model.apply(_cast(params, dtype), batch.replace(inputs=_cast(batch.inputs, dtype)),
                          True, rng, state.vary, stage.mode, prepared)
    return _cast(outputs, jnp.float32)

  def loss_fn(params):
    params = _trained(model, trains, params, jax.lax.stop_gradient(params))
    outputs = _in_parts(functools.partial(apply, params), batch, microbatches)
    if model.join:
      outputs = _met(model, params, outputs, batch, rng, state.vary, stage.mode, prepared, layout)
    found = model.loss(outputs, batch, layout.gather)
    named = stage.weights or state.weights
    if unknown := found.keys() - named.keys():
      raise ValueError(f"Loss terms {sorted(unknown)} have no weight in the phase; it names "
                       f"{sorted(named)}.")
    scalars = {name: share * losses.reduce(term, columns, layout.total)
               for name, (term, columns) in found.items() if terms is None or name in terms}
    seen = model.hooks and model.hooks.see(jax.lax.stop_gradient(outputs), batch, layout.total)
    return sum(state.weights[name] * value for name, value in scalars.items()), (scalars, seen)

  (loss, (scalars, seen)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  if layout.axis:
    loss, scalars, gradients = jax.lax.pmean((loss, scalars, gradients), layout.axis)
  kept = {}
  if model.hooks:
    gradients, kept["carry"] = model.hooks.adjust(gradients, state.params, state.carry, seen,
                                                  stage.mode)
  norm = optax.tree.norm(gradients)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  rows = layout.total(batch.valid.sum())

  def update(state):
    direction, opt_state = optimizer.update(gradients, state.opt_state, state.params, norm=norm)
    updates = jax.tree_util.tree_map_with_path(
        lambda path, d, p: -state.learning_rate * _rate(model, path) * (
            d + state.weight_decay * p if path[-1].key == "kernel" else d), direction, state.params)
    held = functools.partial(_trained, model, trains)
    params = held(optax.apply_updates(state.params, updates), state.params)
    average = None
    if state.average is not None:
      average = held(optax.incremental_update(params, state.average, 1 - ema), state.average)
      average = _parts(model.fixed, params, average)   # what hooks set holds for predictions, too
    if trains or model.fixed:
      like = jax.tree.structure(params)
      moments = lambda tree: jax.tree.structure(tree) == like
      opt_state = jax.tree.map(lambda new, old: held(new, old) if moments(new) else new,
                               opt_state, state.opt_state, is_leaf=moments)
    return state.replace(params=params, opt_state=opt_state, average=average, **kept)

  new = _chosen(finite & (rows > 0), update, state)
  failed = jnp.where(rows > 0, jnp.where(finite, 0, state.failed + 1), state.failed)
  return (new.replace(step=state.step + (rows > 0), failed=failed),
          dict(scalars, loss=loss, failed=failed, rows=rows, gradient_norm=norm))


def _chosen(so, update, state):
  """update(state) where `so` is true, else `state`."""
  # Chosen array by array, a CPU copies every one of them at every step; to take a branch, a GPU
  # waits for the host.
  return jax.lax.platform_dependent(
      so, state, cpu=lambda so, state: jax.lax.cond(so, update, lambda state: state, state),
      default=lambda so, state: jax.tree.map(functools.partial(jnp.where, so), update(state),
                                             state))


def _rate(model, path):
  """The learning rate of the parameter at `path`, times the phase's."""
  return next((part.rate for part in model.pretrained if _begins(_keys(path), (part.path,))), 1.0)


def _keys(path):
  return tuple(entry.key for entry in path)


def _begins(keys, paths):
  return any(keys[:len(path)] == path for path in paths)


def _parts(paths, chosen, otherwise):
  """The leaves of `chosen` at `paths`, of `otherwise` elsewhere."""
  if not paths:
    return otherwise
  return jax.tree_util.tree_map_with_path(
      lambda path, a, b: a if _begins(_keys(path), paths) else b, chosen, otherwise)


def _trained(model, trains, new, old):
  """`new` where parameters are trained, `old` elsewhere."""
  return _parts(model.fixed, old, _parts(trains, new, old) if trains else new)


def _met(model, params, outputs, batch, rng, vary, mode, prepared, layout):
  """The Outputs of this device's rows once all rows of the batch have met."""
  nodes, rows = jax.tree.map(layout.gather, (outputs, batch.replace(inputs={})))
  found = model.join(params, nodes, rows, rows.valid, True, rng, vary, mode, prepared)
  mine = layout.mine(rows.slot.shape[0])
  return jax.tree.map(lambda x: x[mine], found) if layout.axis else found


def _cast(tree, dtype):
  return jax.tree.map(
      lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _in_parts(apply, batch, parts):
  """apply(batch) with the activations of one part in memory at a time, forward and backward."""
  if parts == 1:
    return apply(batch)
  # part j takes rows j, j + parts, ...: every device keeps its own rows
  split = lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
  join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
  return jax.tree.map(join, jax.lax.map(jax.checkpoint(apply), jax.tree.map(split, batch)))


def memory(params, prepared, *, model, mode=""):
  """What the rows that are asked for will meet: (Outputs, Batch without inputs) of the support
  rows; None where they meet nobody."""
  if not model.join or not model.remembers:
    return None
  support = prepared["support"]
  return (model.apply(params, support, False, None, mode=mode, prepared=prepared),
          support.replace(inputs={}))


def evaluated(params, batch, met=None, prepared=None, *, model, mode=""):
  """The Outputs of a batch without dropout, each row's free of the others'; `met` from memory()."""
  outputs = model.apply(params, batch, False, None, mode=mode, prepared=prepared)
  if not model.join:
    return outputs
  rows, count = batch.replace(inputs={}), 0
  if met:
    outputs, rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), met, (outputs, rows))
    count = met[1].slot.shape[0]   # not len(): an export's number of rows is a symbol
  sends = rows.valid & (jnp.arange(rows.slot.shape[0]) < count)
  found = model.join(params, outputs, rows, sends, False, None, mode=mode, prepared=prepared)
  return jax.tree.map(lambda x: x[count:], found)


def eval_step(params, batch, met=None, prepared=None, *, model, mode=""):
  """(B, T) probabilities of a batch; arguments as of evaluated()."""
  return model.probability(evaluated(params, batch, met, prepared, model=model, mode=mode).logits)


def take(data, fold, rows, slot):
  """The Batch of `rows` (B,) of the resident `data` as `fold` preprocessed it; -1 is padding."""
  index = jnp.maximum(rows, 0)
  return Batch(
      inputs={m: x[fold if len(x) > 1 else 0, index] for m, x in data["inputs"].items()},
      observed=data["observed"][index], labels=data["labels"][index], valid=rows >= 0,
      patient=data["patient"][index], slot=slot)


def epoch_order(rng, epoch, rows, batch_size, slots):
  """(steps, slots) row indices of one epoch: a permutation of `rows` (R,) that depends on (rng,
  epoch) alone, padding last. Padding `rows` with -1 changes nothing but the number of (empty)
  steps."""
  rng = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(rng), 0x0D), epoch)
  draw = lambda i: jax.random.bits(jax.random.fold_in(rng, i)) >> 1
  last = jnp.uint32(0xFFFFFFFF)
  key = jnp.where(rows >= 0, jax.vmap(draw)(jnp.arange(rows.shape[0])), last)
  steps = -(-rows.shape[0] // batch_size)
  order = jnp.full(steps * batch_size, -1, jnp.int32).at[:rows.shape[0]].set(
      rows[jnp.argsort(key)])
  return jnp.pad(order.reshape(steps, batch_size), ((0, 0), (0, slots - batch_size)),
                 constant_values=-1)


def close_epoch(member, state, scalars, probabilities, labels, monitor, hooks=None):
  """The Member after an epoch that led to `state`, and what the host is told.

  Args:
    member: before the epoch.
    state: after its last step.
    scalars: name -> (steps,) from train_step().
    probabilities, labels: (V, T) of the validation rows; padding has NaN labels.
    monitor: "loss" | "auroc", what early stopping maximises (the loss negated).
    hooks: the model's, or None; what close() changes, the next epoch starts from.
  Returns:
    (Member, report): train, val: dicts of scalars, the former means over steps but for the norms of
      the parameters and of the epoch's whole update; ran, stopped: () bool; total: () int32 epochs;
    worst, worst_end: () int32 length of the longest run of non-finite steps, counted from earlier
      epochs on, and its last step in this one.
  """
  val, score = validation.score(probabilities, labels, monitor)
  monitored = member.patience >= 0
  better = ~monitored | (score > member.best_score) | (member.epoch == 0)
  epoch = member.epoch + 1
  best_epoch = jnp.where(better, epoch, member.best_epoch)
  best = jax.tree.map(lambda a, b: jnp.where(better, a, b), state.evaluated, member.best)
  new = member.replace(
      state=state, best=best, best_score=jnp.where(better, score, member.best_score),
      best_epoch=best_epoch, epoch=epoch, total=member.total + 1,
      stopped=monitored & (epoch - best_epoch >= member.patience))
  if hooks:
    params, carry = hooks.close(state.params, state.carry)
    new = new.replace(state=state.replace(params=params, carry=carry))
  real = scalars["rows"] > 0
  means = {k: jnp.where(real, v, 0.0).sum() / real.sum() for k, v in scalars.items()
           if k not in ("rows", "failed")}
  moved = jax.tree.map(jnp.subtract, state.params, member.state.params)
  norms = dict(parameter_norm=optax.tree.norm(state.params), update_norm=optax.tree.norm(moved))
  failed = scalars["failed"]
  return new, dict(train=means | norms, val=val, ran=jnp.bool_(True), stopped=new.stopped,
                   total=new.total, worst=failed.max(), worst_end=failed.argmax())


def skipped(member, report):
  """close_epoch() of a member that had stopped before: `report` is all zero."""
  return member, report | dict(stopped=jnp.bool_(True))
