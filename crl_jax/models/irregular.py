"""Series that are measured now and then, read as they are. What else a row has joins late, which is
ours: `h = [series vectors | e_m delta_m | delta]`, to the heads.

gru_d: GRU-D (Che et al., 2016, arXiv 1606.01865): a GRU whose inputs fall to the mean, and whose
  state falls to zero, the longer a variable was not measured. Ours follows the paper's equations;
  its public code mixes in the state that did not decay.
raindrop: Raindrop (Zhang et al., ICLR 2022, arXiv 2110.05357), our reading of its equations; the
  size of a sensor's vector and the weight of similarity are in no code of its authors. At every
  step the variables that are measured tell all what they hold, along edges that each row weighs
  anew, and of which the strongest stay. In the public code no variable hears of another.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, fusion, heads, losses, rows, series, stages
from crl_jax.models.parts.noise import dropout, input_dropout
from crl_jax.models.record import Model, Outputs


_STEPS = 16   # of a series whose messages are in memory at a time


class Cell(nn.Module):
  """A GRU's step (Cho et al., 2014) from the decayed state. It is told what its inputs add to both
  gates and the candidate, and after these 3H numbers the H factors of decay."""
  size: int

  @nn.compact
  def __call__(self, h, x):
    own = functools.partial(nn.Dense, use_bias=False, kernel_init=nn.initializers.orthogonal())
    gates, candidate, decay = jnp.split(x, (2 * self.size, 3 * self.size))
    h = decay * h
    z, r = jnp.split(nn.sigmoid(gates + own(2 * self.size, name="gates")(h)), 2)
    h = (1 - z) * h + z * nn.tanh(candidate + own(self.size, name="candidate")(r * h))
    return h, h

  def initialize_carry(self, rng, shape):
    del rng, shape
    return jnp.zeros(self.size)


class GruD(nn.Module):
  """(L, 2 + 2V) -> (H,). Scaled, a variable's mean is zero."""
  size: int
  input_dropout: float

  @nn.compact
  def __call__(self, x, noise):
    valid_L, time_L, values, masks = series.split(x)
    measured = masks > 0
    last, since = latest(time_L, values, measured)
    zeros = nn.initializers.zeros
    rate, least = (self.param(f"input_{name}", zeros, values.shape[1:]).astype(x.dtype)
                   for name in ("rate", "least"))
    filled = jnp.where(measured, values, _decay(rate * since + least) * last)
    decay = _decay(nn.Dense(self.size, kernel_init=zeros, name="decay")(since))
    seen = input_dropout(jnp.concatenate([filled, masks], -1), self.input_dropout, noise)
    told = nn.Dense(3 * self.size, name="inputs")(seen)
    return series.masked_scan(Cell(self.size, name="cell"), jnp.concatenate([told, decay], -1),
                              valid_L)[0]


def _decay(x):
  # rates start at zero, where relu has no gradient
  return jnp.exp(-jnp.maximum(x, 0.0))


def latest(time_L, values_LxV, measured_LxV):
  """What was measured at the latest before each step, and for how long it was not since: both
  (L, V). Before the first measurement these are 0 and the time since the first step."""
  steps = jnp.arange(1, len(time_L) + 1)[:, None]
  until = jax.lax.cummax(jnp.where(measured_LxV, steps, 0), axis=0)
  before = jnp.pad(until, ((1, 0), (0, 0)))[:-1]   # 0: none
  last = jnp.take_along_axis(jnp.pad(values_LxV, ((1, 0), (0, 0))), before, 0)
  return last, time_L[:, None] - jnp.concatenate([time_L[:1], time_L])[before]


class Flow(nn.Module):
  """(L, 2 + 2V) -> (what each variable knows (V, K + 16), edges (V, V)).

  With h_u = relu(R_u x_u) of what is measured, r of variables and p of times, in every round
  `a_uv = sigmoid(h_u D [r_v | p])` at a step, `h_v' = relu(w_v' sum_u (h_u w_u) a_uv e_uv)`, and
  after it `e_uv' = e_uv mean a_uv` over the steps at which u is measured; sums are over such u.
  """
  config: ml_collections.FrozenConfigDict   # settings.chosen()

  @nn.compact
  def __call__(self, x, noise):
    c = self.config
    valid_L, time_L, values, masks = series.split(x)
    L, V = values.shape
    of_sensors = lambda name, size, scale=1.0: self.param(   # such that messages keep their size
        name, nn.initializers.normal(scale), (V, size)).astype(x.dtype)
    p_LxP, r_VxR = series.waves(time_L), of_sensors("sensor", c.sensor)
    x_LxV = input_dropout(jnp.where(masks > 0, values, 0), c.input_dropout, noise)
    h_LxVxK = nn.relu(x_LxV[..., None] * of_sensors("observation", c.observation))
    edges = jnp.ones((V, V), x.dtype)
    for i in range(c.rounds):
      asks = nn.Dense(c.sensor + p_LxP.shape[1], use_bias=False, name=f"attend_{i}")(h_LxVxK)
      to_sensor, to_time = jnp.split(asks, (c.sensor,), -1)
      said_LxV = (h_LxVxK * of_sensors(f"send_{i}", c.observation, c.observation ** -0.5)).sum(-1)
      heard_LxV, mean_VxV = _told(masks, said_LxV, to_sensor, (to_time * p_LxP[:, None]).sum(-1),
                                  r_VxR, edges)
      h_LxVxK = nn.relu(heard_LxV[..., None] * of_sensors(f"hear_{i}", c.observation))
      edges = strongest(edges * mean_VxV, min(int(c.keep * V * V) or 1, V * V))
    waves = jnp.broadcast_to(p_LxP, (V, *p_LxP.shape))
    x_VxLxQ = jnp.concatenate([h_LxVxK.swapaxes(0, 1), waves], -1)
    mixed, _ = fusion.Attention(1, name="attention")(x_VxLxQ, jnp.broadcast_to(valid_L, (V, L)))
    x_VxLxQ = nn.LayerNorm(name="norm")(x_VxLxQ + dropout(mixed, noise))
    return (jnp.where(valid_L[:, None], x_VxLxQ, 0).sum(1) / jnp.maximum(valid_L.sum(), 1), edges)


def _told(masks_LxV, said_LxV, to_sensor_LxVxR, to_time_LxV, r_VxR, edges_VxV):
  """(L, V) what every variable hears at every step, and (V, V) mean weights of who told whom."""
  def some(total, at):
    masks, said, to_sensor, to_time = at
    weights_CxVxV = nn.sigmoid(to_sensor @ r_VxR.T + to_time[..., None]) * masks[..., None]
    heard_CxV = jnp.einsum("cu,cuv,uv->cv", said, weights_CxVxV, edges_VxV)
    return total + weights_CxVxV.sum(0), heard_CxV
  count = min(_STEPS, len(masks_LxV))
  def pieces(x):
    x = jnp.pad(x, ((0, -len(x) % count), *[(0, 0)] * (x.ndim - 1)))
    return x.reshape(-1, count, *x.shape[1:])
  total, heard = jax.lax.scan(
      jax.checkpoint(some, prevent_cse=False), jnp.zeros_like(edges_VxV),
      tuple(map(pieces, (masks_LxV, said_LxV, to_sensor_LxVxR, to_time_LxV))))
  heard_LxV = heard.reshape(-1, heard.shape[-1])[:len(masks_LxV)]
  return heard_LxV, total / jnp.maximum(masks_LxV.sum(0), 1)[:, None]


def strongest(edges, count):
  """The `count` largest of `edges`, 0 for the others."""
  _, which = jax.lax.top_k(edges.reshape(-1), count)
  kept = jnp.zeros(edges.size, bool).at[which].set(True)
  return jnp.where(kept.reshape(edges.shape), edges, 0)


class Raindrop(nn.Module):
  """(L, 2 + 2V) -> ((D,), the edges)."""
  config: ml_collections.FrozenConfigDict

  @nn.compact
  def __call__(self, x, noise):
    known, edges = Flow(self.config, name="flow")(x, noise)
    dense = lambda name: nn.Dense(self.config.width, name=name)
    hidden = dropout(nn.relu(dense("hidden")(known.reshape(-1))), noise)
    return nn.LayerNorm(name="norm")(dense("out")(hidden)), edges


class Joined(nn.Module):
  """One row: the vectors of its modalities, zeros where one is missing, and the pattern. An encoder
  may give (vector, edges)."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    found = encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise)
    edges = {f"edges_{m}": e[1] for m, e in zip(self.modalities, found) if isinstance(e, tuple)}
    vectors = [e[0] if isinstance(e, tuple) else e for e in found]
    there = [jnp.where(seen, e, 0.0) for seen, e in zip(observed_M, vectors)]
    h = jnp.concatenate([*there, observed_M.astype(vectors[0].dtype)])
    return Outputs(heads.logits(dropout(h, noise), self.tasks, self.deeper, noise), h, edges)


def build_gru_d(config, spec):
  """gru_d. Arguments as models.build; returns a Model. Raises ValueError where the cohort has no
  series."""
  c = settings.chosen(config)
  return _build(config, spec, functools.partial(GruD, c.hidden, c.input_dropout))


def build_raindrop(config, spec):
  """raindrop. Arguments, result and errors as of build_gru_d(). The term similar is, of each
  series, the variance over rows of the edges' weights: half the mean square between two rows."""
  c = settings.chosen(config)
  own = encoders.of_kind(spec, config.model.name, "series")

  def similar(outputs, batch, gather):
    values, there = [], []
    for m in own:
      edges = outputs.named[f"edges_{m}"]
      seen_B = batch.valid & batch.observed[:, spec.modalities.index(m)]
      weight = gather(seen_B)[:, None, None] / jnp.maximum(gather(seen_B).sum(), 1)
      values.append(jnp.square(edges - (gather(edges) * weight).sum(0)).mean((1, 2)))
      there.append(seen_B)
    return {"similar": (losses.masked(jnp.stack(values, 1), jnp.stack(there, 1)), 1.0)}

  return _build(config, spec, functools.partial(Raindrop, c), c.weights.to_dict(), similar)


def _build(config, spec, read, weights=None, more=lambda outputs, batch, gather: {}):
  """The Model whose series are read by the modules `read` (name=); `more`: further loss terms."""
  c, own = settings.chosen(config), encoders.of_kind(spec, config.model.name, "series")
  makers, pretrained, inputs = encoders.build(config, spec)
  makers = tuple(read if m in own else make for m, make in zip(spec.modalities, makers))
  prediction, probability = heads.prediction(config, spec.tasks)
  module = Joined(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper))
  init, apply, vary = rows.batched(module, inputs, len(spec.modalities), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    return {"prediction": prediction(outputs.logits, batch), **more(outputs, batch, gather)}

  return Model(init, apply, loss, probability, (stages.joint(config, weights),), vary, pretrained)
