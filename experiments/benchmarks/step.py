"""What a training step spends its time on, and what share of a large matrix product's rate it gets.

The step, parts of it alone and the step with parts left out are timed in turn, each a program of
its own that repeats it on one batch; what the compiler saves across parts makes the step a little
cheaper than their sum. "All else" is what is left of the step: activations, norms, softmax, losses.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crl_jax.engine import step
from crl_jax.models.parts import losses
from experiments.benchmarks import interleaved, line, ratios, setup, training

CASES = ("all", 32), ("one", 128)   # model.crl_mmnar.hide, batch size


def rows(options):
  """Lines of the table."""
  prepared = setup.prepare(options)
  lines = []
  for hide, batch in CASES:
    config = setup.settings(options, f"model.crl_mmnar.hide={hide}", f"train.batch_size={batch}")
    lines += case(f"step, hide {hide}, batch {batch}", config, prepared, options)
  return lines


def case(part, config, prepared, options):
  """Lines of one config."""
  bench = setup.Bench(config, prepared, steps=1)
  rows = prepared.train[0][:config.train.batch_size]
  batch = jax.device_put(training.HostLoop(bench, prepared.data).batch(rows))
  state = jax.tree.map(lambda x: jnp.array(x[0]), bench.member().state)
  steps = options.steps or bench.epoch_steps
  gradient = lambda s: jax.grad(_loss)(s.params, s, bench, batch)
  parts = {
      "whole step": lambda s: step.train_step(
          s, batch, model=bench.model, optimizer=bench.optimizer, layout=bench.programs.layout)[0],
      "forward pass and losses": lambda s: _counted(s, _loss(s.params, s, bench, batch)),
      "gradient": lambda s: _moved(s, gradient(s)),
      "gradient, dropout drawn once": lambda s: _moved(s, gradient(s.replace(step=jnp.int32(0)))),
      "norm, clipping and Adam": lambda s: _updated(s, bench.optimizer)}
  things = {name: _repeated(run, state, steps) for name, run in parts.items()}
  matrices, roof = Products(gradient, state, steps), training.MatrixProduct()
  found = interleaved(things | {"products": matrices.run, "roof": roof.run}, options.repeats)
  ms = {name: [1e3 * s / steps for s in found[name]] for name in (*parts, "products")}
  whole, rate = ms["whole step"], [roof.flops / s for s in found["roof"]]
  bits = _less(ms["gradient"], ms["gradient, dropout drawn once"])
  spent = {
      f"its {len(matrices.operands)} matrix products alone": ms["products"],
      "its norm, clipping and Adam alone": ms["norm, clipping and Adam"],
      "drawing its dropout: the gradient, less with dropout drawn once": bits,
      "all else": _less(whole, ms["products"], ms["norm, clipping and Adam"], bits)}
  share = lambda flops, ms: [1e3 * flops / x / y for x, y in zip(ms, rate)]
  return [
      line(part, "whole step", whole, "ms", "the matrix product's rate",
           share(matrices.flops, whole)),
      line(part, "matrix products alone, again", ms["products"], "ms", "the matrix product's rate",
           share(matrices.flops, ms["products"])),
      *(line(part, name, values, "ms", "whole step", ratios(values, whole))
        for name, values in spent.items()),
      *(line(part, name, ms[name], "ms", "whole step", ratios(ms[name], whole))
        for name in ("forward pass and losses", "gradient"))]


class Products:
  """The matrix products of a function, of its shapes and on random numbers, and nothing else."""

  def __init__(self, function, argument, steps):
    found = list(training.products(jax.make_jaxpr(function)(argument).jaxpr))
    rng = np.random.default_rng(0)
    self.operands = [[jnp.array(rng.normal(size=v.aval.shape), v.aval.dtype) for v in e.invars]
                     for e in found]
    self.flops = sum(map(training.operations, found))
    # what it wrote before is written again: no new memory, which the system would have to fill
    self._program = jax.jit(
        lambda operands, before: [e.primitive.bind(*x, **e.params)
                                  for e, x in zip(found, operands)],
        donate_argnums=1, keep_unused=True)
    self._results = [jnp.zeros(e.outvars[0].aval.shape, e.outvars[0].aval.dtype) for e in found]
    self._steps = steps

  def run(self):
    """Seconds of the products of so many steps."""
    start = time.perf_counter()
    for _ in range(self._steps):
      self._results = self._program(self.operands, self._results)
    jax.block_until_ready(self._results)
    return time.perf_counter() - start


def _less(whole, *parts):
  """What parts leave of the whole, repeat by repeat."""
  return [x - sum(some) for x, *some in zip(whole, *parts)]


def _repeated(run, state, steps):
  """A function that runs `steps` times and returns its seconds."""
  program = jax.jit(lambda s: jax.lax.scan(lambda s, _: (run(s), None), s, None, length=steps)[0])
  def timed():
    start = time.perf_counter()
    jax.block_until_ready(program(state))
    return time.perf_counter() - start
  return timed


def _loss(params, state, bench, batch):
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  terms = bench.model.loss(bench.model.apply(params, batch, True, rng, state.vary), batch)
  return sum(state.weights[name] * losses.reduce(term, columns, bench.programs.layout.total)
             for name, (term, columns) in terms.items())


def _counted(state, value):
  """`state` after a step that has computed `value`, which must not be optimised away."""
  return state.replace(step=state.step + 1 + (value != value))


def _moved(state, gradients):
  return state.replace(step=state.step + 1, params=jax.tree.map(
      lambda p, g: p - 1e-6 * g, state.params, gradients))


def _updated(state, optimizer):
  gradients = jax.tree.map(lambda p: 1e-3 * p, state.params)
  direction, opt_state = optimizer.update(
      gradients, state.opt_state, state.params, norm=optax.tree.norm(gradients))
  return state.replace(opt_state=opt_state, params=jax.tree.map(
      lambda p, d: p - 1e-6 * d, state.params, direction))
