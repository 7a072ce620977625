"""A small engine: everything that loop.fit() wants, for a handful of rows."""

import dataclasses
import functools
import types

import jax
import numpy as np

from crl_jax import config as config_lib, models
from crl_jax.data import preprocess, stream
from crl_jax.engine import loop, programs, step
from crl_jax.models.parts import losses
from crl_jax.models.record import Batch

TASKS = "readmission", "mortality"
ROWS = np.arange(120), np.arange(120, 160)


def make_data(kinds=()):
  """160 rows of 80 patients, three modalities and two tasks, on the host, preprocessed: vectors, or
  the first ones of `kinds`. An image's pixels are floats, so that they may have a gradient."""
  rng, rows = np.random.default_rng(0), 160
  observed = rng.random((rows, 3)) < 0.7
  labels = (rng.random((rows, 2)) < 0.3).astype(np.float32)
  labels[rng.random((rows, 2)) < 0.1] = np.nan
  inputs = {m: rng.normal(size=(rows, f)).astype(np.float32)
            for m, f in (("a", 5), ("b", 7), ("c", 4))}
  first = {m: x[:, 0] for m, x in inputs.items()}
  for m, kind in zip(inputs, kinds):
    inputs[m] = {"series": _series, "image": _image}[kind](inputs[m])
  for i, m in enumerate(inputs):
    labels[:, 0] = np.where(np.isnan(labels[:, 0]), np.nan, first[m] + labels[:, 0] > 0.8)
    inputs[m][~observed[:, i]] = 0
  return {"inputs": inputs, "observed": observed, "labels": labels,
          "patient": np.arange(rows, dtype=np.int32) // 2}


def _series(x):
  """(N, 4, 2 + 2V) of vectors (N, F), V = 2: one step to four that show the first feature."""
  rng, (rows, steps, V) = np.random.default_rng(1), (len(x), 4, 2)
  valid = np.arange(steps) < rng.integers(1, steps + 1, rows)[:, None]
  hours = np.sort(rng.random((rows, steps)), 1)
  seen = valid[..., None] & (rng.random((rows, steps, V)) < 0.7)
  values = x[:, :1, None] + rng.normal(size=(rows, steps, V))
  parts = valid[..., None], (hours * valid)[..., None], values * seen, seen
  return np.concatenate(parts, -1).astype(np.float32)


def _image(x):
  """(N, 8, 8, 1) of vectors (N, F): a square as bright as the first feature."""
  pixels = np.random.default_rng(1).integers(80, 120, (len(x), 8, 8, 1))
  pixels[:, 2:6, 2:6] += (30 * np.clip(x[:, :1], -2, 2)).astype(int)[..., None, None]
  return pixels.astype(np.float32)


def wanted(name):
  """The kinds that make_data() should hold for a model."""
  return tuple(kind for kind in ("series", "image") if kind in models.entry(name).inputs)


def kinds_of(data):
  return {m: {2: "vector", 3: "series", 4: "image"}[x.ndim] for m, x in data["inputs"].items()}


def raw(data):
  """The inputs of make_data() as a cohort has them."""
  def of(x):
    if x.ndim != 3:
      return x.astype(np.uint8) if x.ndim == 4 else x
    values, seen = np.split(x[..., 2:], 2, -1)
    return np.where(np.concatenate([x[..., :1], seen], -1) > 0,
                    np.concatenate([x[..., 1:2], values], -1), np.nan)
  return {m: of(x) for m, x in data["inputs"].items()}


class Programs(programs.Programs):
  """Counts how often the epoch is traced."""
  traced = 0

  def _resident_epoch(self, *arrays):
    self.traced += 1
    return super()._resident_epoch(*arrays)

  def compiled_once(self):
    # where a sharding changes, jit compiles again without a trace; pmap tells of traces alone
    variants = self._variants.values()
    return self.traced == len(variants) and (self.layout.pmap or all(
        programs.resident._cache_size() == 1 for programs in variants))


class Engine:
  """Everything that fit() wants, for `count` members that differ in their seed."""

  def __init__(self, config, data, devices=1, count=1, **settings):
    name = settings.pop("model.name", config.model.name)
    # a model that is named takes its settings' defaults
    named = [f"model.name={name}"] if name != config.model.name else []
    self.config = c = config_lib.override(config, named).unlock()
    c.update_from_flattened_dict(settings)
    self.model, self.optimizer = build(c, data), step.make_optimizer(c)
    self.programs = Programs(self.model, self.optimizer, c, tuple(data["inputs"]),
                             jax.devices()[:devices], count)
    kept = prepared(self.model, data)
    self.data = self.programs.resident(with_fold(data) | ({"prepared": kept} if kept else {}))
    self.count = count

  def members(self, seeds=(5,), **vary):
    keys = np.stack([jax.random.key_data(jax.random.key(seed)) for seed in seeds])
    fill = lambda value: np.full(len(seeds), value, np.float32)
    values = {k: np.array(vary.get(k, fill(v)), np.float32) for k, v in self.model.vary.items()}
    return self.programs.init(*self.programs.pad(
        (keys, fill(self.config.train.weight_decay), values)))

  def splits(self, rows=((ROWS),)):
    pad = lambda r, n: np.pad(r, (0, n - len(r)), constant_values=-1).astype(np.int32)
    lines = [np.stack([pad(r[i], max(len(x[i]) for x in rows)) for r in rows]) for i in (0, 1)]
    return step.Split(*self.programs.pad((*lines, np.zeros(len(rows), np.int32))))

  def fit(self, member=None, splits=None, data=None, stages=None, note=None, **hooks):
    records = [] if note is None else note
    note = lambda m, stage, total, scalars: records.append(
        (m, stage, total, {k: v for k, v in scalars.items() if k != "seconds"}))
    member = self.members() if member is None else member
    splits = splits or self.splits()
    if not isinstance(splits, list):   # the same rows in all phases
      splits = [splits] * len(self.model.stages)
    member = loop.fit(self.programs, member, splits,
                      self.data if data is None else data, TASKS,
                      stages or [self.model.stages] * self.count, self.config, on_epoch=note,
                      **hooks)
    return self.programs.to_host(member.best), records


def prepared(model, data):
  """What a model keeps of the training rows of one fold, which are preprocessed already."""
  found = dict(model.prepare(data["observed"][ROWS[0]], data["labels"][ROWS[0]])) if (
      model.prepare) else {}
  if model.support:
    some = ROWS[0][:model.support]
    found["support"] = batch_of(data, some)
  return jax.tree.map(lambda x: x[None], found)


def with_fold(data):
  return data | {"inputs": {m: x[None] for m, x in data["inputs"].items()}}


def same(a, b):
  return all(np.array_equal(x, y, equal_nan=True)
             for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def close(found, expected, rtol):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def compare_members(params, records, alone):
  for m, (expected, expected_records) in enumerate(alone):
    mine = [(0, *r[1:]) for r in records if r[0] == m]
    assert [r[:3] for r in mine] == [r[:3] for r in expected_records]
    for (*_, a), (*_, b) in zip(mine, expected_records):
      np.testing.assert_allclose([a[k] for k in b], list(b.values()), rtol=1e-3, atol=1e-5)
    close(jax.tree.map(lambda x: x[m], params), jax.tree.map(lambda x: x[0], expected), 2e-3)


def streamed_source(engine, data, monkeypatch):
  """The rows as a Stream, three steps of one member in a piece."""
  monkeypatch.setattr(stream, "_CHUNK_BYTES", 3 * 16 * 16 * 4)
  inputs = raw(data)
  stats = preprocess.fit_folds(inputs, data["observed"], ("a", "b", "c"), [ROWS[0]],
                               engine.config.preprocess, kinds_of(data))
  cohort = types.SimpleNamespace(inputs=inputs, observed=data["observed"],
                                 labels=data["labels"], modalities=("a", "b", "c"))
  return stream.Stream(cohort, data["patient"],
                       engine.programs.resident(preprocess.stack(stats)))


def small(name):
  """The config of a model at a size that compiles quickly."""
  c = config_lib.paper_tasks(config_lib.default(name)).unlock()
  c.model.width, c.model.heads, c.train.batch_size, c.model.dropout = 8, 2, 16, 0.1
  c.train.pretrain.epochs, c.train.joint.epochs, c.train.joint.patience = 1, 2, 2
  c.train.joint.learning_rate = 3e-3
  c.checkpoint.every_epochs = 1
  c.vision.update(dict(width=4, rotation=0.0, translation=0.0, scale=(1.0, 1.0)))
  own = c.model[name]
  for name, value in (("support", 32), ("hidden", 8), ("node", 8), ("depth", 10)):
    if name in own:
      own[name] = value
  for stage in own.get("stages", {}).values():
    stage.epochs = 1
  return c


def build(config, data):
  """The Model of `config` for the rows of make_data()."""
  return models.build(config, models.Spec(
      tuple(data["inputs"]), TASKS, {m: x.shape[1:] for m, x in data["inputs"].items()},
      tuple(range(8)), kinds_of(data)))


def built(name, data, **own):
  """(model, drawn() parameters, config) of small(name) with these settings of its own. Its
  functions are compiled whole, which is quicker than step by step."""
  c = small(name)
  c.model[name].update(own)
  model = build(c, data)
  compiled = functools.partial(jax.jit, static_argnames=("train", "mode"))
  functions = {key: compiled(f) for key in ("apply", "join") if (f := getattr(model, key))}
  return dataclasses.replace(model, **functions, loss=jax.jit(model.loss)), drawn(model), c


def drawn(model):
  """Parameters of the model's shapes, drawn without compiling its init: nothing is left at zero,
  and no two are tied. Those that hooks set are 1: what they open is open."""
  rng = np.random.default_rng(0)
  def draw(path, x):
    if step._begins(step._keys(path), model.fixed):
      return np.ones(x.shape, np.float32)
    scale = 0.3 if path[-1].key != "kernel" else np.prod(x.shape[:-1]) ** -0.5
    return (rng.normal(size=x.shape) * scale + (path[-1].key == "scale")).astype(np.float32)
  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(3)))


def seen(batch, *pattern):
  """The Batch as if exactly these modalities (M bits) were observed in every row."""
  return batch.replace(observed=np.tile(np.array(pattern, bool), (len(batch.slot), 1)))


def ask(model, params, batch, kept=None):
  """The logits of a model whose rows do not meet, without dropout, in its last stage's mode."""
  apply = functools.partial(model.apply, train=False, rng=None, mode=model.stages[-1].mode)
  return np.asarray(apply(params, batch, prepared=kept).logits)


def gradient(model, kept=None, mode="", terms=None):
  """(params, batch) -> the gradient of the sum of the loss terms named, of all where None."""
  def total(params, batch):
    outputs = model.apply(params, batch, True, jax.random.key(1), mode=mode, prepared=kept)
    return sum(losses.reduce(*term) for name, term in model.loss(outputs, batch).items()
               if terms is None or name in terms)
  return jax.jit(jax.grad(total))


def batch_of(data, rows):
  """The Batch of these rows of make_data()."""
  pick = lambda x: np.asarray(x[rows])
  return Batch({m: pick(x) for m, x in data["inputs"].items()}, pick(data["observed"]),
               pick(data["labels"]), np.ones(len(rows), bool), pick(data["patient"]),
               np.arange(len(rows), dtype=np.int32))


def make_engine(data):
  """An Engine of one member on one device: up to 2 and 4 epochs of 8 steps."""
  c = config_lib.paper_tasks(config_lib.default()).unlock()
  c.model.width, c.model.heads, c.train.batch_size = 8, 2, 16
  c.train.pretrain.epochs, c.train.joint.epochs, c.train.joint.patience = 2, 4, 2
  c.train.joint.learning_rate = 3e-3
  c.checkpoint.every_epochs = 1
  return Engine(c, data)
