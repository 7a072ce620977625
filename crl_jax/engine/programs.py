"""The compiled programs of a run: epochs and predictions of many members at once, on any devices,
from resident or streamed data. Each is a function of step.py, mapped over members."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax.data import preprocess, stream
from crl_jax.engine import layout, step
from crl_jax.models.record import Batch

_EVALUATED = 1024   # rows of one evaluation step at most
_MET = 256          # where they meet others: what those say grows with the square of the rows


class Programs:
  """Programs for members of one model and shape, compiled when first called.

  Arrays of a Member or Split have a leading axis of `members` entries: the `count` wanted ones, and
  as many repetitions of the last one, trained along and never looked at, as it takes to spread them
  evenly over the devices.
  """

  def __init__(self, model, optimizer, config, modalities, devices, count):
    """Compiles nothing yet.

    Args:
      model: models.record.Model.
      optimizer: step.make_optimizer().
      modalities: the M names, in the order of `observed`.
      config: the whole tree.
      devices: list of jax devices.
      count: how many members are trained at once.
    """
    t = config.train
    self.layout = layout.make_layout(devices, config.parallel, count)
    self.count, self.members = count, self.layout.members(count)
    self.by_member, self.to_host = self.layout.by_member, self.layout.to_host
    self.model, self._optimizer, self._config = model, optimizer, config
    self._modalities = modalities
    self._slots = self.layout.slots(t.batch_size, t.microbatches)
    self._step = functools.partial(
        step.train_step, model=model, optimizer=optimizer, layout=self.layout, ema=t.ema,
        dtype=jnp.dtype(t.precision), microbatches=t.microbatches)
    # On one CPU the arithmetic is the time: members follow each other, and stopped ones cost
    # nothing. Elsewhere launches are: all go together.
    cpu = len(devices) == 1 and devices[0].platform == "cpu"
    self.together = min(config.members.together or (1 if cpu else self.members), self.members)
    self._in_turn = cpu and self.together == 1 and not self.layout.pmap
    self._init = self._compiled(self._init_one, shared=1)
    self._order = self._compiled(self._order_one)
    self._close = self._compiled(self._close_one)
    self._variants, self._asking = {}, {}

  def variant(self, stage):
    """The programs of a phase (enter, resident, chunk), those of one Stage.program shared."""
    if stage.program not in self._variants:
      of = lambda function: functools.partial(function, stage)
      self._variants[stage.program] = types.SimpleNamespace(
          enter=self._compiled(of(self._enter_one), shared=1),
          resident=self._compiled(of(self._resident_epoch), shared=1, donate=(0,)),
          chunk=self._compiled(of(self._chunk_one), shared=1))
    return self._variants[stage.program]

  def asking(self, mode):
    """The programs that predict in a stage's mode (resident, chunk)."""
    if mode not in self._asking:
      of = lambda function: functools.partial(function, mode)
      self._asking[mode] = types.SimpleNamespace(
          resident=self._compiled(of(self._predict_resident_one), shared=1),
          chunk=self._compiled(of(self._predict_chunk_one), shared=1))
    return self._asking[mode]

  def pad(self, tree):
    """Repeats the last entry of every array (count, ...) up to the members that run."""
    extra = self.members - self.count
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], extra, 0)]), tree)

  def resident(self, data):
    """Puts preprocessed data (members.member_data) on the devices."""
    return self.layout.everywhere(data)

  def init(self, keys, weight_decay, vary):
    """The members before their first phase.

    Args:
      keys: (members, 2) uint32, data of their root keys.
      weight_decay: (members,) of AdamW.
      vary: name -> (members,) values of the model's numbers that may vary.
    """
    pretrained = self.resident([part.read() for part in self.model.pretrained])
    return self._init(*self.by_member((keys, weight_decay, vary)), pretrained)

  def enter(self, member, values, fold, data, stage):
    """The members at the start of a phase.

    Args:
      member: Member.
      values: of step.stage_values(), with a member axis, on the devices.
      fold: (members,) int32 on the devices.
      data: from resident(), or a Stream.
      stage: models.record.Stage.
    """
    return self.variant(stage).enter(member, values, fold, _prepared(data))

  def epoch(self, member, splits, data, stage):
    """One epoch of a phase of every member that has not stopped; returns (Member, report). `member`
    is consumed."""
    programs = self.variant(stage)
    if not isinstance(data, stream.Stream):
      return programs.resident(member, splits, data)
    order = self.to_host(self._order(member, splits))
    state, scalars = member.state, []
    for chunk in data.chunks(order, self.layout.by_row):
      state, found = programs.chunk(state, splits.fold, member.stopped, chunk,
                                    (data.stats, data.prepared))
      scalars.append(found)
      jax.block_until_ready(scalars[-2:-1])   # or the reader would fill the memory with its lead
    rows = self.to_host(splits.val)
    p = self._streamed(state.evaluated, splits.fold, rows, data, stage.mode)
    labels = np.where(rows[..., None] >= 0, data.labels[rows], np.nan).astype(np.float32)
    scalars = jax.tree.map(lambda *x: jnp.concatenate(x, 1), *scalars)
    return self._close(member, state, scalars, *self.by_member((p, labels)))

  def predict(self, params, fold, rows, data):
    """Probabilities of every member's own rows.

    Args:
      params: parameters with a leading member axis, on the devices.
      fold: (members,) int32 on the devices.
      rows: (members, V) int32 on the host, -1 is padding.
      data: from resident(), or a Stream.
    Returns:
      (members, V, T) float32 on the host.
    """
    mode = self.model.stages[-1].mode
    if isinstance(data, stream.Stream):
      return self._streamed(params, fold, rows, data, mode)
    return self.to_host(self.asking(mode).resident(params, fold, self.by_member(rows), data))

  def _streamed(self, params, fold, rows, data, mode):
    size, ask = self._asked(rows.shape[1]), self.asking(mode).chunk
    steps = -(-rows.shape[1] // size)
    order = np.pad(rows, ((0, 0), (0, steps * size - rows.shape[1])), constant_values=-1)
    found = [self.to_host(ask(params, fold, chunk, (data.stats, data.prepared))) for chunk in
             data.chunks(order.reshape(len(rows), steps, size), self.layout.by_row)]
    p = np.concatenate(found, 1)
    return p.reshape(len(rows), -1, p.shape[-1])[:, :rows.shape[1]]

  def _asked(self, count):
    """Slots of an evaluation step of `count` rows in all."""
    return self.layout.slots(min(_MET if self.model.join else _EVALUATED, count))

  def _compiled(self, function, shared=0, donate=()):
    """`function` of one member, mapped over members and compiled; its last `shared` arguments are
    common to all."""
    def mapped(*args):
      own, common = args[:len(args) - shared], args[len(args) - shared:]
      one = lambda *own: function(*own, *common)
      if self._in_turn or self.members == 1:   # an axis of one costs a CPU a sixth of its time
        found = one(*jax.tree.map(lambda x: x[0], own))
        return jax.tree.map(lambda x: x[None], found)
      if self.together == self.members:
        return jax.vmap(one, spmd_axis_name=None if self.layout.pmap else layout.MEMBER)(*own)
      return jax.lax.map(lambda own: one(*own), own,
                         batch_size=None if self.together == 1 else self.together)
    if self.layout.pmap:
      return jax.pmap(mapped, axis_name=layout.DATA, donate_argnums=donate,
                      devices=list(self.layout.mesh.devices.flat))
    # pinned, or a sharding that the compiler chose would compile the next epoch again
    jit = functools.partial(jax.jit, out_shardings=self.layout.member_sharding)
    program = jit(mapped, donate_argnums=donate)
    return self._each(program, jit, shared) if self._in_turn and self.members > 1 else program

  def _each(self, program, jit, shared):
    """`program` of one member for all of them, one call after another. (A loop within a program,
    lax.map, takes a CPU a tenth longer.)"""
    pick = jit(lambda tree, m: jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, m, 1), tree))
    room = jit(lambda tree: jax.tree.map(
        lambda x: jnp.zeros((self.members, *x.shape[1:]), x.dtype), tree))
    put = jit(lambda tree, found, m: jax.tree.map(
        lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, m, 0), tree, found),
        donate_argnums=0)

    @functools.wraps(program)
    def each(*args):
      own, common = args[:len(args) - shared], args[len(args) - shared:]
      for m in range(self.members):
        found = program(*pick(own, m), *common)
        told = put(told if m else room(found), found, m)
      return told
    each._cache_size = program._cache_size
    return each

  # What follows is of one member, inside a program.

  def _init_one(self, key, weight_decay, vary, pretrained):
    return step.init_member(self.model, self._optimizer, jax.random.wrap_key_data(key),
                            weight_decay, vary, self._config.train.ema, pretrained)

  def _enter_one(self, stage, member, values, fold, prepared):
    return step.enter_stage(member, values, _of_fold(prepared, fold), model=self.model,
                            optimizer=self._optimizer, stage=stage)

  def _resident_epoch(self, stage, member, split, data):
    def run(member):
      slot, prepared = self.layout.mine(self._slots), _of_fold(_prepared(data), split.fold)
      def body(state, rows):
        batch = self.layout.spread(step.take(data, split.fold, rows[slot], slot))
        return self._step(state, batch, prepared, stage=stage)
      state, scalars = jax.lax.scan(body, member.state, self._order_one(member, split))
      p = self._predict_resident_one(stage.mode, state.evaluated, split.fold, split.val, data)
      y = jnp.where(split.val[:, None] >= 0, data["labels"][split.val], jnp.nan)
      return step.close_epoch(member, state, scalars, p, y, self._config.train.monitor,
                              self.model.hooks)
    return self._unless(member.stopped, run, step.skipped, member)

  def _chunk_one(self, stage, state, fold, stopped, chunk, common):
    stats, prepared = common
    def run(state):
      own = _of_fold(prepared, fold)
      body = lambda state, part: self._step(state, self._batch(part, fold, stats), own, stage=stage)
      return jax.lax.scan(body, state, chunk)
    return self._unless(stopped, run, lambda state, scalars: (state, scalars), state)

  def _close_one(self, member, state, scalars, p, y):
    run = lambda member: step.close_epoch(member, state, scalars, p, y,
                                          self._config.train.monitor, self.model.hooks)
    return self._unless(member.stopped, run, step.skipped, member)

  def _batch(self, part, fold, stats):
    """A Batch from raw rows that were streamed in."""
    inputs = {name: preprocess.apply(jax.tree.map(lambda x: x[fold], stats[name]),
                                     part["inputs"][name], part["observed"][:, m])
              for m, name in enumerate(self._modalities)}
    return self.layout.spread(Batch(
        inputs, part["observed"], part["labels"], part["rows"] >= 0, part["patient"],
        jnp.arange(part["rows"].shape[0], dtype=jnp.int32)))

  def _order_one(self, member, split):
    return step.epoch_order(member.state.rng, member.total, split.train,
                            self._config.train.batch_size, self._slots)

  def _predict_resident_one(self, mode, params, fold, rows, data):
    prepared = _of_fold(_prepared(data), fold)
    met = step.memory(params, prepared, model=self.model, mode=mode)
    size = self._asked(rows.shape[0])
    steps = -(-rows.shape[0] // size)
    padded = jnp.full(steps * size, -1, jnp.int32).at[:rows.shape[0]].set(rows)
    slot = self.layout.mine(size)
    def body(_, rows):
      batch = self.layout.spread(step.take(data, fold, rows[slot], slot))
      return None, self.layout.gather(step.eval_step(params, batch, met, prepared,
                                                     model=self.model, mode=mode))
    p = jax.lax.scan(body, None, padded.reshape(steps, size))[1]
    return p.reshape(steps * size, -1)[:rows.shape[0]]

  def _predict_chunk_one(self, mode, params, fold, chunk, common):
    stats, prepared = common
    own = _of_fold(prepared, fold)
    met = step.memory(params, own, model=self.model, mode=mode)
    def body(_, part):
      return None, step.eval_step(params, self._batch(part, fold, stats), met, own,
                                  model=self.model, mode=mode)
    return jax.lax.scan(body, None, chunk)[1]

  def _unless(self, stopped, run, otherwise, value):
    """run(value), or otherwise(value, what run would have told, all zero) where `stopped`: without
    computing it, where members follow each other."""
    run = jax.jit(run)   # traced once for both uses
    told = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, value)[1])
    if self.together == 1:
      return jax.lax.cond(stopped, lambda value: otherwise(value, told), run, value)
    # mapped, a cond computes both and chooses too, but first copies the data for every member
    return jax.tree.map(functools.partial(jnp.where, stopped), otherwise(value, told), run(value))


def _prepared(data):
  """What a model keeps of the training rows of all folds, or None."""
  return data.prepared if isinstance(data, stream.Stream) else data.get("prepared")


def _of_fold(prepared, fold):
  return jax.tree.map(lambda x: x[fold], prepared)
