"""What a training step spends its time on: the same step with parts of it left out, timed in turn.

Every line is a program of its own that repeats its part on one batch; what the compiler saves across
parts makes the whole a little cheaper than their sum.
"""

import time

import jax
import jax.numpy as jnp

from crl_jax import losses, train
from experiments.benchmarks import interleaved, line, ratios, setup, training

CASES = ("all", 32), ("one", 128)   # model.hide, batch size


def rows(options):
  """Lines of the table."""
  prepared = setup.prepare(options)
  lines = []
  for hide, batch in CASES:
    config = setup.settings(options, f"model.hide={hide}", f"train.batch_size={batch}")
    lines += case(f"step, hide {hide}, batch {batch}", config, prepared, options)
  return lines


def case(part, config, prepared, options):
  """Lines of one config."""
  bench = setup.Bench(config, prepared, steps=1)
  rows = prepared.train[0][:config.train.batch_size]
  batch = jax.device_put(training.HostLoop(bench, prepared.data).batch(rows))
  state = jax.tree.map(lambda x: jnp.array(x[0]), bench.member().state)
  steps = options.steps or bench.epoch_steps
  parts = {
      "whole step": lambda s: train.train_step(
          s, batch, model=bench.model, optimizer=bench.optimizer, layout=bench.programs.layout)[0],
      "forward pass and losses": lambda s: _counted(s, _loss(s.params, s, bench, batch)),
      "gradient": lambda s: _moved(s, jax.grad(_loss)(s.params, s, bench, batch)),
      "gradient, without drawing dropout": lambda s: _moved(
          s, jax.grad(_loss)(s.params, s.replace(step=jnp.int32(0)), bench, batch)),
      "clipping and Adam": lambda s: _updated(s, bench.optimizer)}
  seconds = interleaved({name: _repeated(run, state, steps) for name, run in parts.items()},
                        options.repeats)
  whole = seconds["whole step"]
  return [line(part, name, [1e3 * s / steps for s in found], "ms",
               "" if name == "whole step" else "whole step",
               None if name == "whole step" else ratios(found, whole))
          for name, found in seconds.items()]


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
  direction, opt_state = optimizer.update(
      jax.tree.map(lambda p: 1e-3 * p, state.params), state.opt_state, state.params)
  return state.replace(opt_state=opt_state, params=jax.tree.map(
      lambda p, d: p - 1e-6 * d, state.params, direction))
