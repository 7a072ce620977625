"""Seconds per epoch of the full method, against a Python loop over host batches, plain PyTorch and
what the machine's matrix product would allow.

All train on the same rows with the same model, losses, optimizer and batch size, in float32, with
everything compiled before it is timed. An epoch here is its training steps; validation is a line of
its own.
"""

import functools
import math
import os
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax import config as config_lib
from crl_jax.models.record import Batch
from crl_jax.engine import step
from experiments.benchmarks import interleaved, line, ratios, setup

# model.crl_mmnar.hide, batch size
CASES = ("all", 32), ("one", 32), ("all", 128), ("all", 512)
EPOCHS = 120   # of a whole training, 20 of phase 1 and 100 of phase 2 at most [paper]


def rows(options):
  """Lines of the table."""
  prepared = setup.prepare(options)
  lines = []
  for hide, batch in CASES:
    config = setup.settings(options, f"model.crl_mmnar.hide={hide}", f"train.batch_size={batch}")
    lines += case(f"training, hide {hide}, batch {batch}", config, prepared, options)
  return lines


def case(part, config, prepared, options):
  """Lines of one config."""
  bench = setup.Bench(config, prepared, steps=options.steps)
  data = bench.programs.resident(prepared.data)
  resident, product, loop = bench.runner(data), MatrixProduct(), HostLoop(bench, prepared.data)
  start = time.perf_counter()
  resident()
  compiled = time.perf_counter() - start
  things = {"resident": resident, "loop": loop.run, "product": product.run,
            "validation": validation(bench, prepared, data)}
  lacks = torch_lacks()
  if not lacks:
    things["torch"] = torch_run(bench, prepared)
  seconds = interleaved(things, options.repeats)
  epoch = {name: [bench.scale * s for s in seconds[name]]
           for name in ("resident", "loop", "torch") if name in seconds}
  flops = loop.flops()
  achieved = [flops * bench.steps / s for s in seconds["resident"]]
  roof = [product.flops / s for s in seconds["product"]]
  whole = [EPOCHS * (a + b) for a, b in zip(epoch["resident"], seconds["validation"])]
  giga = lambda values: [v / 1e9 for v in values]
  lines = [
      line(part, f"epoch of {bench.epoch_steps} steps ({bench.steps} timed)", epoch["resident"],
           "s", "Python loop", ratios(epoch["loop"], epoch["resident"])),
      line(part, "the same, Python loop over host batches", epoch["loop"], "s"),
      line(part, f"arithmetic, {flops / 1e9:.3g} GFLOP a step", giga(achieved), "GFLOP/s",
           "matrix product", ratios(achieved, roof)),
      line(part, f"matrix product, float32, {product.size} x {product.size}", giga(roof),
           "GFLOP/s"),
      line(part, "validation of an epoch", seconds["validation"], "s"),
      line(part, f"{EPOCHS} epochs with validation, from the above", whole, "s"),
      line(part, "compilation and the first steps", compiled, "s"),
      line(part, "peak memory of the process so far" if _on_cpu() else "peak memory of the device",
           peak_memory() / 2 ** 30, "GiB")]
  if lacks:
    return lines + [line(part, f"plain PyTorch: not measured, {lacks}", float("nan"), "s")]
  return lines + [
      line(part, "epoch, again", epoch["resident"], "s", "plain PyTorch",
           ratios(epoch["torch"], epoch["resident"])),
      line(part, "the same, plain PyTorch", epoch["torch"], "s")]


class HostLoop:
  """The same step driven from Python: a NumPy batch is cut from the host's rows, put on the device
  and stepped on; nothing waits before the last step."""

  def __init__(self, bench, data):
    one = functools.partial(step.train_step, model=bench.model, optimizer=bench.optimizer,
                            layout=bench.programs.layout)
    self._step = jax.jit(one, donate_argnums=0)
    self._data, self._rows = data, np.asarray(bench.split.train[0])
    self._size = bench.config.train.batch_size
    self.state = jax.tree.map(lambda x: jnp.array(x[0]), bench.member().state)
    self._rng = np.random.default_rng(0)

  def batch(self, rows):
    """The Batch of `rows` (B,) on the host, padded as the resident one is."""
    rows = np.pad(rows, (0, self._size - len(rows)), constant_values=-1)
    d = self._data
    return Batch({m: x[0, rows] for m, x in d["inputs"].items()}, d["observed"][rows],
                 d["labels"][rows], rows >= 0, d["patient"][rows],
                 np.arange(self._size, dtype=np.int32))

  def run(self):
    """Seconds of the steps."""
    start = time.perf_counter()
    order = self._rng.permutation(self._rows[self._rows >= 0])
    for first in range(0, len(order), self._size):
      batch = jax.device_put(self.batch(order[first:first + self._size]))
      self.state, _ = self._step(self.state, batch)
    jax.block_until_ready(self.state)
    return time.perf_counter() - start

  def flops(self):
    """Operations of a step's matrix products: what it recomputes, draws or leaves out is not the
    method's arithmetic."""
    batch = self.batch(self._rows[:self._size])
    return sum(map(operations, products(jax.make_jaxpr(self._step)(self.state, batch).jaxpr)))


def products(jaxpr):
  """All dot_general of a jaxpr and of those it calls."""
  for equation in jaxpr.eqns:
    if equation.primitive is jax.lax.dot_general_p:
      yield equation
    for value in equation.params.values():
      for inner in value if isinstance(value, (list, tuple)) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from products(inner)


def operations(equation):
  """Of a dot_general: a multiplication and an addition for each number that is summed over."""
  (summed, _), _ = equation.params["dimension_numbers"]
  return 2 * equation.outvars[0].aval.size * math.prod(
      equation.invars[0].aval.shape[axis] for axis in summed)


class MatrixProduct:
  """A large matrix product, of float32 at the same precision setting as the model's."""

  def __init__(self, precision="float32"):
    self.size = 2048 if _on_cpu() else 8192
    self.flops = 2 * self.size ** 3 * 4
    # random numbers: a product of ones takes less power, and may run faster than a real one
    self._x = jax.random.normal(jax.random.key(0), (self.size, self.size), jnp.dtype(precision))
    self._product = jax.jit(jnp.dot)

  def run(self):
    """Seconds of four products."""
    start = time.perf_counter()
    for _ in range(4):
      product = self._product(self._x, self._x)
    product.block_until_ready()
    return time.perf_counter() - start


def validation(bench, prepared, data):
  """A function that predicts the validation rows and returns its seconds."""
  params = bench.member().best
  val = prepared.val[0][None].astype(np.int32)
  def run():
    start = time.perf_counter()
    bench.programs.predict(params, bench.split.fold, val, data)
    return time.perf_counter() - start
  return run


def torch_lacks():
  """Why PyTorch cannot be compared here, or ''."""
  try:
    import torch
  except ModuleNotFoundError:
    return "torch is not installed"
  if not _on_cpu() and not torch.cuda.is_available():
    return "this torch has no CUDA"
  return ""


def torch_run(bench, prepared):
  """A function that trains the PyTorch model on as many steps and returns its seconds."""
  import torch
  from experiments.benchmarks import torch_reference
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  config, rows = bench.config, np.asarray(bench.split.train[0], np.int64)
  data = dict(prepared.data, inputs={m: x[0] for m, x in prepared.data["inputs"].items()})
  trainer = torch_reference.Trainer(config, data, prepared.tasks,
                                    config_lib.task_losses(config, prepared.tasks),
                                    "cpu" if _on_cpu() else "cuda")
  def run():
    start = time.perf_counter()
    loss = trainer.epoch(rows[rows >= 0], config.train.batch_size)
    if not np.isfinite(loss):
      raise FloatingPointError("PyTorch's loss is not finite; a setting is wrong.")
    return time.perf_counter() - start
  return run


def peak_memory():
  """Bytes: the process's most so far on CPU, the first device's elsewhere."""
  if _on_cpu():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def _on_cpu():
  return jax.default_backend() == "cpu"
