"""Many small networks in one program: those of all folds and nuisances train together.

A network is Dense(width)-relu-Dense(1), or, with several outputs, one Dense(width)-relu that they
share and for each output Dense(width)-relu-Dense(1) (TARNet: Shalit, Johansson and Sontag 2017;
DragonNet: Shi, Blei and Veitch 2019). Rows that a network does not see have weight 0, so one
program and one order of batches serve all of them.

Axes in names: M members, N rows, D inputs, O outputs.
"""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax

_BETTER = (1e-9, 1e-6)   # a validation loss that is lower by less is no better: squares, log-loss
_CHUNK = 65536           # rows that are predicted at once


class Fitted(typing.NamedTuple):
  """Attributes: params, a tree of arrays with a leading axis M; binary (M, O) bool; loss (M,)
  lowest validation loss; epochs (M,) int, until that loss."""
  params: dict
  binary: np.ndarray
  loss: np.ndarray
  epochs: np.ndarray


class _State(typing.NamedTuple):
  params: dict
  moments: typing.Any
  best: dict
  loss: jax.Array     # (M,) of best
  at: jax.Array       # (M,) epochs until best
  epoch: jax.Array    # ()


def fit(x, targets, fit_weight, val_weight, binary, starts, settings, seed, parts=None,
        heads=None):
  """Trains M networks, each to its lowest loss on rows of its own.

  Args:
    x: (N, D) float, finite. Each member standardises it by the rows that it fits.
    targets: (M, N), or (M, N, O) for networks of O outputs; what is not finite is of rows without
      weight.
    fit_weight, val_weight: (M, N), 0 for the rows that a member does not see. The loss of a batch
      is the sum of weighted losses over the sum of weights.
    binary: (M,), or (M, O): log-loss of a logit, else squares.
    starts: M ints, of the members' initial weights: a member's result depends on its own and on
      `seed`, not on who trains beside it.
    settings: config.policy.net.
    seed: int, of the order of the rows, which all members share.
    parts: (N, O) weights of the outputs of a row, one where None: (1 - T, T) are TARNet's.
    heads: (M, O) weights of a member's outputs, one where None.
  Returns:
    Fitted.
  Raises:
    ValueError: a member without rows to fit or to stop by, inputs or losses that are not finite.
  """
  targets, binary = np.asarray(targets, np.float32), np.asarray(binary, bool)
  if targets.ndim == 2:
    targets, binary = targets[..., None], binary[:, None]
  fit_weight, val_weight = (np.asarray(w, np.float32) for w in (fit_weight, val_weight))
  for what, weight in (("fit", fit_weight), ("stop by", val_weight)):
    if empty := int((weight.sum(1) <= 0).sum()):
      raise ValueError(f"{empty} of {len(weight)} networks have no row to {what}: too few rows for "
                       "so many folds (policy.folds).")
  if not np.isfinite(x).all():
    raise ValueError("networks got inputs that are not finite: impute first.")
  parts = np.ones((len(x), targets.shape[2])) if parts is None else parts
  heads = np.ones(binary.shape) if heads is None else heads
  used = (fit_weight + val_weight)[..., None] * parts > 0
  single = lambda a: np.asarray(a, np.float32)
  members = [_start([seed, start, 1], x.shape[1], settings.width, targets.shape[2])
             for start in starts]
  params, loss, at = _fit(
      jax.tree.map(lambda *a: np.stack(a), *members), _orders(len(x), settings, seed), single(x),
      np.where(used, targets, 0), fit_weight, val_weight, single(binary), single(parts),
      single(heads), single(settings.learning_rate), single(settings.weight_decay),
      patience=settings.patience)
  if odd := int((~np.isfinite(loss)).sum()):
    raise ValueError(f"{odd} of {len(loss)} networks never had a finite validation loss: look for "
                     "outcomes of an extreme size, or lower policy.net.learning_rate.")
  return Fitted(jax.tree.map(np.asarray, params), binary, np.asarray(loss), np.asarray(at))


def predict(fitted, x):
  """(M, N) of networks of one output, else (M, N, O): probabilities where binary, else values."""
  parts = [np.asarray(_predict(fitted.params, jnp.asarray(x[i:i + _CHUNK], jnp.float32)))
           for i in range(0, max(len(x), 1), _CHUNK)]
  found = np.concatenate(parts, 1).astype(np.float64)
  logit = np.clip(found, -500, 500)
  found = np.where(fitted.binary[:, None], 1 / (1 + np.exp(-logit)), found)
  return found[..., 0] if found.shape[2] == 1 else found


def _orders(n, settings, seed):
  """(epochs, steps, batch) int32 rows of every batch; n fills the last one up."""
  rng, steps = np.random.default_rng([seed, 0x0D]), -(-n // settings.batch_size)
  orders = np.full((settings.epochs, steps * settings.batch_size), n, np.int32)
  for order in orders:
    order[:n] = rng.permutation(n)
  return orders.reshape(settings.epochs, steps, settings.batch_size)


def _start(seed, d, width, outputs):
  """A member's initial weights, of variance 1 / fan-in, and biases 0."""
  rng = np.random.default_rng(seed)
  dense = lambda fan, *shape: rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan))
  zeros = lambda *shape: np.zeros(shape, np.float32)
  params = {"hidden": dense(d, d, width), "hidden_bias": zeros(width),
            "last": dense(width, outputs, width), "last_bias": zeros(outputs)}
  if outputs > 1:
    params |= {"inner": dense(width, outputs, width, width), "inner_bias": zeros(outputs, width)}
  return params


@functools.partial(jax.jit, static_argnames="patience")
def _fit(params, orders_ExSxB, x_NxD, targets_MxNxO, fit_MxN, val_MxN, binary_MxO, parts_NxO,
         heads_MxO, rate, decay, *, patience):
  """Returns (params, lowest validation loss (M,), its epoch (M,))."""
  n, (epochs, steps, batch) = len(x_NxD), orders_ExSxB.shape
  optimizer = optax.adamw(rate, weight_decay=decay)
  scale = jax.vmap(functools.partial(_scale, x_NxD))(fit_MxN)
  better = jnp.asarray(_BETTER)[binary_MxO[:, 0].astype(int)]

  def loss_of(params, scale, binary, heads, x, y, weight, parts):
    """Sum over rows of weighted losses, and sum of weights."""
    z = _apply(params, (x - scale[0]) / scale[1])
    each = heads * jnp.where(binary > 0, optax.sigmoid_binary_cross_entropy(z, y), (z - y)**2)
    return jnp.sum(weight * jnp.sum(parts * each, -1)), jnp.sum(weight)

  def mean_loss(*args):
    total, weight = loss_of(*args)
    return total / jnp.maximum(weight, 1e-12)

  def update(carry, index):
    """One batch; a member that sees none of its rows stays as it is."""
    params, moments = carry
    real = index < n
    at = jnp.where(real, index, 0)
    weight_MxB = fit_MxN[:, at] * real

    def one(params, moments, scale, binary, heads, y, weight):
      grads = jax.grad(mean_loss)(params, scale, binary, heads, x_NxD[at], y, weight, parts_NxO[at])
      updates, new = optimizer.update(grads, moments, params)
      sees = jnp.sum(weight) > 0
      keep = lambda a, b: jnp.where(sees, a, b)
      return (jax.tree.map(keep, optax.apply_updates(params, updates), params),
              jax.tree.map(keep, new, moments))
    return jax.vmap(one)(params, moments, scale, binary_MxO, heads_MxO, targets_MxNxO[:, at],
                         weight_MxB), None

  def validation(params):
    def part(index):
      real = index < n
      at = jnp.where(real, index, 0)
      return jax.vmap(lambda *of_member, y, w: loss_of(*of_member, x_NxD[at], y, w, parts_NxO[at]))(
          params, scale, binary_MxO, heads_MxO, y=targets_MxNxO[:, at], w=val_MxN[:, at] * real)
    totals, weights = jax.lax.map(part, jnp.arange(steps * batch).reshape(steps, batch))
    return totals.sum(0) / weights.sum(0)

  def epoch(s):
    (params, moments), _ = jax.lax.scan(update, (s.params, s.moments), orders_ExSxB[s.epoch])
    loss = validation(params)
    improved = (loss < s.loss - better) & (s.epoch - s.at < patience)
    choose = lambda new, old: jnp.where(improved.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
    return _State(params, moments, jax.tree.map(choose, params, s.best),
                  choose(loss, s.loss), choose(s.epoch + 1, s.at), s.epoch + 1)

  def going(s):
    return (s.epoch < epochs) & jnp.any(s.epoch - s.at < patience)

  moments = jax.vmap(optimizer.init)(params)
  state = _State(params, moments, params, jnp.full(len(fit_MxN), jnp.inf),
                 jnp.zeros(len(fit_MxN), jnp.int32), jnp.int32(0))
  state = jax.lax.while_loop(going, epoch, state)
  return state.best | {"center": scale[0], "spread": scale[1]}, state.loss, state.at


def _scale(x, weight):
  """Mean and standard deviation of the rows with weight; 1 where nothing varies."""
  weight = (weight > 0) / jnp.sum(weight > 0)
  mean = weight @ x
  spread = jnp.sqrt(weight @ (x - mean)**2)
  return mean, jnp.where(spread > 1e-6 * jnp.maximum(1, jnp.abs(mean)), spread, 1)


def _apply(params, x_BxD):
  """(B, O)."""
  h_BxW = jax.nn.relu(x_BxD @ params["hidden"] + params["hidden_bias"])
  if "inner" not in params:
    return h_BxW @ params["last"].T + params["last_bias"]
  h_BxOxW = jax.nn.relu(jnp.einsum("bw,owv->bov", h_BxW, params["inner"]) + params["inner_bias"])
  return jnp.einsum("bow,ow->bo", h_BxOxW, params["last"]) + params["last_bias"]


@jax.jit
def _predict(params, x_NxD):
  return jax.vmap(lambda p: _apply(p, (x_NxD - p["center"]) / p["spread"]))(params)
