"""TrainState, the pure train and eval steps, and the one loop over epochs."""

import dataclasses
import functools
import time
from typing import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from crl_jax import losses, metrics, sharding
from crl_jax.data.cohort import Batch


@flax.struct.dataclass
class TrainState:
  """Everything a step reads and writes.

  Attributes:
    step: () int32, over all phases.
    params: the trained parameters.
    opt_state: optax state.
    average: exponential moving average of params, or None.
    rng: root key of the member; step t uses fold_in(rng, t).
    learning_rate: () of the current phase.
    weights: loss term -> () weight of the current phase.
  """
  step: jnp.ndarray
  params: dict
  opt_state: tuple
  average: dict | None
  rng: jnp.ndarray
  learning_rate: jnp.ndarray
  weights: dict

  @property
  def evaluated(self):
    """The parameters that validation and prediction use."""
    return self.params if self.average is None else self.average


@flax.struct.dataclass
class Progress:
  """What a checkpoint holds: the state, the best parameters so far and where the loop stands."""
  state: TrainState
  best: dict
  # () float64, higher is better; -inf before the first validation of a monitored phase
  best_score: np.ndarray
  best_epoch: np.ndarray    # () int64
  stage: np.ndarray         # () int64, index into model.stages
  epoch: np.ndarray         # () int64, epochs done in that stage
  total: np.ndarray         # () int64, epochs done in all


class Interrupted(Exception):
  """Raised by fit() after a requested stop has been checkpointed."""


def make_optimizer(config):
  """AdamW without its learning rate, which a state carries: clipped gradients -> direction of
  descent."""
  decayed = lambda params: jax.tree_util.tree_map_with_path(
      lambda path, _: path[-1].key == "kernel", params)
  return optax.chain(
      optax.clip_by_global_norm(config.train.clip_norm),
      optax.scale_by_adam(),
      optax.add_decayed_weights(config.train.weight_decay, mask=decayed))


def init_state(model, optimizer, stage, rng, ema):
  """The TrainState at the start of `stage`, with parameters drawn from `rng`."""
  init_rng, step_rng = jax.random.split(rng)
  params = jax.jit(model.init)(init_rng)
  return enter_stage(TrainState(
      jnp.int32(0), params, optimizer.init(params), params if ema else None, step_rng,
      jnp.float32(0), {}), optimizer, stage)


def enter_stage(state, optimizer, stage):
  """Starts a phase: its rate and weights, fresh optimizer moments, the same parameters."""
  return state.replace(
      opt_state=optimizer.init(state.params),
      average=None if state.average is None else jax.tree.map(jnp.copy, state.params),
      learning_rate=jnp.float32(stage.learning_rate),
      weights={name: jnp.float32(value) for name, value in stage.weights.items()})


def train_step(state, batch, *, model, optimizer, ema=0.0, axis=None):
  """One optimizer step.

  Args:
    state: TrainState.
    batch: Batch, this device's share of it when `axis` is given.
    model: models.record.Model.
    optimizer: from make_optimizer().
    ema: decay of state.average.
    axis: name of the device axis in a per-device program; None in a global one.
  Returns:
    (new state, scalars). A step with a non-finite loss or gradient changes nothing but the step
    count.
  Raises:
    ValueError: (when traced) the model returns a loss term that the phase gives no weight.
  """
  rng = jax.random.fold_in(state.rng, state.step)
  if axis is None:
    gather = total = mean = lambda x: x
    share = 1
  else:
    gather = functools.partial(jax.lax.all_gather, axis_name=axis, tiled=True)
    total = functools.partial(jax.lax.psum, axis_name=axis)
    mean = functools.partial(jax.lax.pmean, axis_name=axis)
    # each device holds its rows' part of the sums; pmean then restores the whole
    share = jax.lax.axis_size(axis)

  def loss_fn(params):
    terms = model.loss(model.apply(params, batch, True, rng), batch, gather)
    unknown = terms.keys() - state.weights.keys()
    if unknown:
      raise ValueError(f"Loss terms {sorted(unknown)} have no weight in the phase; it names "
                       f"{sorted(state.weights)}.")
    scalars = {name: share * losses.reduce(term, columns, total)
               for name, (term, columns) in terms.items()}
    return sum(state.weights[name] * value for name, value in scalars.items()), scalars

  (loss, scalars), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  loss, scalars, gradients = mean((loss, scalars, gradients))
  norm = optax.tree.norm(gradients)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  direction, opt_state = optimizer.update(gradients, state.opt_state, state.params)
  updates = jax.tree.map(lambda d: -state.learning_rate * d, direction)
  params = optax.apply_updates(state.params, updates)
  average = None if state.average is None else optax.incremental_update(
      params, state.average, 1 - ema)
  keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
  new = state.replace(step=state.step + 1, params=keep(params, state.params),
                      opt_state=keep(opt_state, state.opt_state),
                      average=keep(average, state.average))
  return new, dict(scalars, loss=loss, finite=finite, gradient_norm=norm,
                   parameter_norm=optax.tree.norm(params), update_norm=optax.tree.norm(updates))


def eval_step(params, batch, *, model):
  """(B, T) probabilities of a batch, without dropout."""
  return model.probability(model.apply(params, batch, False, None).logits)


def take(data, rows, slot):
  """The Batch of `rows` (B,) of the resident `data`; -1 is padding."""
  index = jnp.maximum(rows, 0)
  return Batch(
      inputs={m: x[index] for m, x in data["inputs"].items()}, observed=data["observed"][index],
      labels=data["labels"][index], valid=rows >= 0, patient=data["patient"][index], slot=slot)


@functools.partial(jax.jit, static_argnames=("batch_size", "slots"))
def epoch_order(rng, epoch, rows, *, batch_size, slots):
  """(steps, slots) row indices of one epoch: a permutation of `rows` that depends on (rng, epoch)
  alone, -1 padded."""
  rng = jax.random.fold_in(jax.random.fold_in(rng, 0x0D), epoch)
  steps = -(-rows.shape[0] // batch_size)
  order = jnp.full(steps * batch_size, -1, jnp.int32).at[:rows.shape[0]].set(
      jax.random.permutation(rng, rows))
  return jnp.pad(order.reshape(steps, batch_size), ((0, 0), (0, slots - batch_size)),
                 constant_values=-1)


@dataclasses.dataclass(frozen=True)
class Programs:
  """The compiled programs of a run, shared by all members of one shape.

  Attributes:
    place: (tree) -> tree on the devices, as `train_epoch` wants state and data.
    fetch: undoes `place` for a state.
    train_epoch: (state, data, order (steps, slots)) -> (state, scalars (steps,) each).
    predict: (params, data, chunks (n, B)) -> (n, B, T) probabilities; takes the arguments from
      `fetch` and `resident`.
    resident: (tree) -> tree on the devices for `predict`.
    slots: batch slots.
  """
  place: Callable
  fetch: Callable
  train_epoch: Callable
  predict: Callable
  resident: Callable
  slots: int


def make_programs(model, optimizer, config, devices):
  """Compiles nothing yet: wraps the steps for `config.parallel` over `devices`. Returns
  Programs."""
  mesh = sharding.make_mesh(devices)
  slots = sharding.slots(config.train.batch_size, devices)
  step = functools.partial(train_step, model=model, optimizer=optimizer, ema=config.train.ema)

  @jax.jit
  def predict(params, data, chunks):
    def body(_, rows):
      batch = sharding.shard_batch(take(data, rows, jnp.arange(rows.shape[0])), mesh)
      return None, eval_step(params, batch, model=model)
    return jax.lax.scan(body, None, chunks)[1]

  def global_epoch(state, data, order):
    def body(state, rows):
      return step(state, sharding.shard_batch(take(data, rows, jnp.arange(slots)), mesh))
    return jax.lax.scan(body, state, order)

  def local_epoch(state, data, order):
    each = slots // mesh.size
    mine = jax.lax.axis_index(sharding.AXIS) * each + jnp.arange(each)
    def body(state, rows):
      return step(state, take(data, rows[mine], mine), axis=sharding.AXIS)
    return jax.lax.scan(body, state, order)

  resident = functools.partial(sharding.replicate, mesh=mesh)
  if config.parallel == "jit":
    # The outputs' sharding is pinned to the inputs', or the second epoch would compile again.
    whole = sharding.replicated(mesh)
    return Programs(resident, lambda state: state, jax.jit(global_epoch, out_shardings=whole),
                    predict, resident, slots)
  mapped = jax.pmap(local_epoch, axis_name=sharding.AXIS, in_axes=(0, 0, None),
                    devices=list(mesh.devices.flat))

  def train_epoch(state, data, order):
    state, scalars = mapped(state, data, order)
    return state, sharding.first_replica(scalars)
  return Programs(functools.partial(sharding.stack_replicas, mesh=mesh), sharding.first_replica,
                  train_epoch, predict, resident, slots)


def predict(programs, params, data, rows, batch=1024):
  """(n, T) float32 probabilities of `rows` (n,) of the resident data, in batches of one shape."""
  batch = sharding.slots(min(batch, max(1, len(rows))),
                         jax.tree.leaves(data)[0].sharding.mesh.devices.ravel())
  count = -(-len(rows) // batch)
  chunks = np.full(count * batch, -1, np.int32)
  chunks[:len(rows)] = rows
  result = programs.predict(params, data, chunks.reshape(count, batch))
  return np.asarray(result).reshape(count * batch, -1)[:len(rows)]


def score(probabilities, labels, tasks, monitor):
  """Validation scalars and the one that early stopping maximises.

  Args:
    probabilities, labels: (n, T), labels NaN where undefined.
    tasks: the T names.
    monitor: "loss" or "auroc".
  Returns:
    (scalars, score): `loss` the log-loss averaged over tasks, `auroc_<task>`; the score is -loss or
    the mean AUROC over the tasks where it is defined.
  """
  p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
  nll, aurocs = [], {}
  for t, task in enumerate(tasks):
    known = ~np.isnan(labels[:, t])
    if known.any():
      y, q = labels[known, t], p[known, t]
      nll.append(-(y * np.log(q) + (1 - y) * np.log1p(-q)).mean())
      aurocs[task] = float(metrics.auroc(y, q)[0])
  scalars = {"loss": float(np.mean(nll)) if nll else np.nan} | {
      f"auroc_{task}": v for task, v in aurocs.items()}
  defined = [v for v in aurocs.values() if np.isfinite(v)]
  value = -scalars["loss"] if monitor == "loss" else (np.mean(defined) if defined else np.nan)
  return scalars, float(value) if np.isfinite(value) else -np.inf


def begin(model, optimizer, config, rng):
  """Progress before the first epoch."""
  state = init_state(model, optimizer, model.stages[0], rng, config.train.ema)
  zero = np.int64(0)
  return Progress(state, state.evaluated, np.float64(-np.inf), zero, zero, zero, zero)


def fit(programs, model, optimizer, data, tasks, rows_train, rows_val, config, progress,
        on_epoch=lambda stage, total, scalars: None, save=lambda progress: None,
        should_stop=lambda: False):
  """Trains one member through all its phases.

  Args:
    programs: Programs.
    data: dict(inputs, observed, labels, patient) of arrays on the host, preprocessed.
    tasks: names of the label columns.
    rows_train, rows_val: row indices.
    progress: from begin() or a checkpoint.
    on_epoch: called with (stage name, epochs done in all, scalars) after every epoch.
    save: called with Progress every config.checkpoint.every_epochs epochs, when a phase ends, and
      before a stop.
    should_stop: asked after every epoch.
  Returns:
    (params, resident): the best parameters, and the data on the devices for predict().
  Raises:
    Interrupted: after saving, when should_stop() says so.
    FloatingPointError: too many consecutive non-finite steps; names the steps and the row indices
      of their batches.
  """
  resident = programs.resident(data)
  placed = resident if config.parallel == "jit" else programs.place(data)
  rows_train, y_val = jnp.asarray(rows_train, jnp.int32), data["labels"][rows_val]
  # never changes; read here, or a new sharding of it would compile everything twice
  rng = progress.state.rng
  while int(progress.stage) < len(model.stages):
    stage = model.stages[int(progress.stage)]
    state = programs.place(progress.state)
    best = progress.best
    while int(progress.epoch) < stage.epochs:
      start = time.perf_counter()
      order = epoch_order(rng, int(progress.total), rows_train, batch_size=config.train.batch_size,
                          slots=programs.slots)
      state, scalars = programs.train_epoch(state, placed, order)
      scalars = jax.device_get(scalars)
      refuse_non_finite(scalars.pop("finite"), order, int(progress.total),
                        config.train.non_finite_steps)
      host = programs.fetch(state)
      p_val = predict(programs, programs.resident(host.evaluated), resident, rows_val)
      val, value = score(p_val, y_val, tasks, config.train.monitor)
      done, total = progress.epoch + 1, progress.total + 1
      progress = progress.replace(state=host, epoch=done, total=total)
      if stage.patience is None:
        best = host.evaluated
      elif value > progress.best_score or done == 1:
        best = host.evaluated
        progress = progress.replace(best_score=np.float64(value), best_epoch=done)
      progress = progress.replace(best=best)
      on_epoch(stage.name, int(total), {
          **{f"train/{k}": float(np.mean(v)) for k, v in scalars.items()},
          **{f"val/{k}": v for k, v in val.items()}, "seconds": time.perf_counter() - start})
      if stage.patience is not None and done - progress.best_epoch >= stage.patience:
        break
      if should_stop():
        save(progress)
        raise Interrupted
      if total % config.checkpoint.every_epochs == 0:
        save(progress)
    progress = progress.replace(stage=progress.stage + 1, epoch=np.int64(0))
    if int(progress.stage) < len(model.stages):
      state = enter_stage(progress.state.replace(params=progress.best), optimizer,
                          model.stages[int(progress.stage)])
      progress = progress.replace(state=state, best_score=np.float64(-np.inf),
                                  best_epoch=np.int64(0))
    save(progress)
  return progress.best, resident


def refuse_non_finite(finite, order, epoch, limit):
  """Raises FloatingPointError where `limit` consecutive steps (steps,) were not finite, with the
  rows they saw."""
  run = 0
  for step, good in enumerate(np.asarray(finite)):
    run = 0 if good else run + 1
    if run >= limit:
      rows = np.asarray(order[step - limit + 1:step + 1]).ravel()
      raise FloatingPointError(
          f"Loss or gradient not finite in {limit} consecutive steps, epoch {epoch + 1} steps "
          f"{step - limit + 1}-{step}. Row indices of these batches: {rows[rows >= 0].tolist()}. "
          "Lower train.*.learning_rate, or look at the inputs of these rows.")
