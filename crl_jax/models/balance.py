"""Models that balance how fast the modalities learn.

inforeg: InfoReg (Huang et al., CVPR 2025, arXiv 2503.18595), in its proximal form. While the first
modality's encoder still gains information fast, the encoder of the modality that leads is held near
where it was when the epoch began.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, rows, stages
from crl_jax.models.record import Hooks, Model, Outputs


class Additive(nn.Module):
  """One row: one linear head of the concatenation, `sum_m delta_m W_m e_m + b`; its parts
  `W_m e_m + b / M` are the modalities' own answers."""
  modalities: tuple
  encoders: tuple
  tasks: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    seen_Mx1 = observed_M[:, None].astype(e_MxD.dtype)
    linear = lambda m, e: nn.Dense(len(self.tasks), use_bias=False, name=f"head_{m}")(e)
    each_MxT = jnp.stack([linear(m, e) for m, e in zip(self.modalities, e_MxD)])
    bias = self.param("bias", nn.initializers.zeros, (len(self.tasks),)).astype(e_MxD.dtype)
    return Outputs((each_MxT * seen_Mx1).sum(0) + bias, (e_MxD * seen_Mx1).reshape(-1),
                   dict(parts=each_MxT + bias / len(self.modalities)))


def build_inforeg(config, spec):
  """inforeg. Arguments as models.build; returns a Model.

  Of modality m, s_m is the mean probability that its own answer gives to the true label, over the
  rows of the batch that have m, times the rows of the batch (upstream all rows have all
  modalities: ours, so that a frequent modality does not lead for being frequent). The leader m* has
  the largest; to its encoder's gradient is added `beta (theta - theta_start)`, with
  `beta = scale exp(tanh(s_m* - mean of the others))`. The window is open in the first epoch, and
  while `(t1 - t2) / t1 > least`: t1 the sum of the last `window` epochs' traces, t2 the same an
  epoch earlier. A trace is the sum over an epoch's steps of the mean squared (regulated) gradient
  of the first modality's weight matrices.

  CareBench's variant, which scales gradients instead, is no InfoReg and is left out.
  """
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(Additive(spec.modalities, makers, spec.tasks), inputs,
                                   len(spec.modalities), c.dropout)
  names = [f"encode_{m}" for m in spec.modalities]

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    own = {f"part_{m}": prediction(outputs.named["parts"][:, i], heads.having(batch, i))
           for i, m in enumerate(spec.modalities)}
    return {"prediction": prediction(outputs.logits, batch), **own}

  def encoded(params):
    return {name: params[name] for name in names}

  def start(params):
    return dict(start=encoded(params), traces=jnp.zeros(c.window + 1), trace=jnp.float32(0),
                epoch=jnp.int32(0))

  def see(outputs, batch, total):
    labels_BxT = jnp.where(batch.valid[:, None], batch.labels, jnp.nan)
    known_BxMxT = batch.observed[..., None] & ~jnp.isnan(labels_BxT)[:, None]
    p_BxMxT = jax.nn.sigmoid(outputs.named["parts"])
    true_BxMxT = jnp.where(labels_BxT[:, None] > 0.5, p_BxMxT, 1 - p_BxMxT)
    right_M, count_M = (total(x.sum((0, 2))) for x in (
        jnp.where(known_BxMxT, true_BxMxT, 0.0), known_BxMxT.astype(jnp.float32)))
    return right_M / jnp.maximum(count_M, 1) * total(batch.valid.sum())

  def adjust(gradients, params, carry, score_M, mode):
    del mode
    pull_M = _pull(score_M, carry, c)
    changed = {name: jax.tree.map(lambda g, p, s: g + pull_M[m] * (p - s), gradients[name],
                                  params[name], carry["start"][name])
               for m, name in enumerate(names)}
    squares = [jnp.square(g).mean() for path, g in jax.tree_util.tree_leaves_with_path(
        changed[names[0]]) if path[-1].key == "kernel"]
    return gradients | changed, carry | dict(trace=carry["trace"] + sum(squares))

  def close(params, carry):
    traces = jnp.concatenate([carry["traces"][1:], carry["trace"][None]])
    return params, dict(start=encoded(params), traces=traces, trace=jnp.float32(0),
                        epoch=carry["epoch"] + 1)

  weights = {"prediction": c.weights.prediction,
             **{f"part_{m}": c.weights.part for m in spec.modalities}}
  return Model(init, apply, loss, probability, (stages.joint(config, weights),), vary, pretrained,
               hooks=Hooks(start=start, see=see, adjust=adjust, close=close))


def _pull(score_M, carry, c):
  """(M,) beta of the leading modality while the window is open, else 0."""
  now, before = carry["traces"][1:].sum(), carry["traces"][:-1].sum()
  growing = (carry["epoch"] == 0) | (now - before > c.least * now)
  leader = score_M.argmax()
  lead = score_M[leader] - (score_M.sum() - score_M[leader]) / max(1, len(score_M) - 1)
  beta = jnp.where(growing & (lead > 0), c.scale * jnp.exp(jnp.tanh(lead)), 0.0)
  return jnp.where(jnp.arange(len(score_M)) == leader, beta, 0.0)
