"""Models that balance how fast the modalities learn.

inforeg: InfoReg (Huang et al., CVPR 2025, arXiv 2503.18595), in its proximal form. While the first
modality's encoder still gains information fast, the encoder of the modality that leads is held near
where it was when the epoch began.
aug: AUG (Jiang et al., 2025, arXiv 2502.20120). The classifier of the modality that is least often
right grows by a layer now and then, which is boosted: it learns what those before it do not say. In
the public code the layers that are added are in no optimizer; ours are trained.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

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


class Growing(nn.Module):
  """One row: of each modality the answer `F_m = fc(relu(A_m e_m)) + sum_k fc(relu(B_mk e_m))` over
  the first layers_m of its layers B, fc shared by all; together the mean of the observed ones'."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    M, D, K = len(self.modalities), self.config.width, self.config.most
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    classify = nn.Dense(len(self.tasks), name="classify")
    layers_M = self.param("layers", nn.initializers.zeros, (M,)).astype(e_MxD.dtype)
    first_MxT = jnp.stack([classify(nn.relu(nn.Dense(D, name=f"first_{m}")(e)))
                           for m, e in zip(self.modalities, e_MxD)])
    boosted_MxKxT = jnp.stack([classify(nn.relu(Layers(K, name=f"boost_{m}")(e)))
                               for m, e in zip(self.modalities, e_MxD)])
    count_MxKx1 = layers_M[:, None, None] - jnp.arange(K)[:, None]
    last_MxT = jnp.where(count_MxKx1 == 1, boosted_MxKxT, 0).sum(1)
    before_MxT = first_MxT + jnp.where(count_MxKx1 > 1, boosted_MxKxT, 0).sum(1)
    own_MxT = before_MxT + last_MxT
    seen_Mx1 = observed_M[:, None].astype(e_MxD.dtype)
    mean = (own_MxT * seen_Mx1).sum(0) / jnp.maximum(seen_Mx1.sum(), 1)
    return Outputs(mean, (e_MxD * seen_Mx1).reshape(-1), dict(
        own=own_MxT, before=before_MxT, last=last_MxT, grown=layers_M > 0))


class Layers(nn.Module):
  """K Dense layers side by side: (D,) -> (K, D). Not named kernel, so that none decays before it is
  there."""
  count: int

  @nn.compact
  def __call__(self, e):
    shape = self.count, e.shape[0], e.shape[0]
    init = nn.initializers.lecun_normal(batch_axis=(0,))
    weights_KxDxD = self.param("weights", init, shape).astype(e.dtype)
    bias_KxD = self.param("bias", nn.initializers.zeros, shape[:2]).astype(e.dtype)
    return jnp.einsum("d,kdh->kh", e, weights_KxDxD) + bias_KxD


def build_aug(config, spec):
  """aug. Arguments as models.build; returns a Model. A batch is a step for each modality's answer
  on the rows that have it: `l(F)`, and once it has grown also `l(F') + (1 - residual p) l(F - F')`,
  F' without the last layer and p what F' gives to the true label.

  After the first epoch and every `every` epochs from then on, the modality whose answers give the
  true label the least probability on average gets a layer, if another's give it more than
  1 + margin times as much.
  """
  c = settings.chosen(config)
  every = c.every or max(1, config.train.joint.epochs // 10)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(Growing(c, spec.modalities, makers, spec.tasks), inputs,
                                   len(spec.modalities), c.dropout)
  M = len(spec.modalities)

  def right(logits, labels):
    p = probability(logits)
    return jnp.where(labels > 0.5, p, 1 - p)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    def own(i):
      having, named = heads.having(batch, i), outputs.named
      term, weights = prediction(named["own"][:, i], having)
      cost = lambda name: prediction(named[name][:, i], having)[0].value
      said = jax.lax.stop_gradient(right(named["before"][:, i], having.labels))
      boosting = cost("before") + (1 - c.residual * said) * cost("last")
      value = term.value + jnp.where(named["grown"][:, i, None], boosting, 0.0)
      return term.replace(value=value), weights
    return {f"own_{m}": own(i) for i, m in enumerate(spec.modalities)}

  def start(params):
    del params
    return dict(right=jnp.zeros(M), count=jnp.zeros(M), epoch=jnp.int32(0))

  def see(outputs, batch, total):
    labels = jnp.where(batch.valid[:, None], batch.labels, jnp.nan)[:, None]
    known_BxMxT = batch.observed[..., None] & ~jnp.isnan(labels)
    true_BxMxT = jnp.where(known_BxMxT, right(outputs.named["own"], labels), 0.0)
    return dict(right=total(true_BxMxT.sum((0, 2))),
                count=total(known_BxMxT.sum((0, 2)).astype(jnp.float32)))

  def adjust(gradients, params, carry, seen, mode):
    del params, mode
    return gradients, carry | {name: carry[name] + x for name, x in seen.items()}

  def close(params, carry):
    score_M = carry["right"] / jnp.maximum(carry["count"], 1)
    there_M = carry["count"] > 0
    weakest = jnp.where(there_M, score_M, jnp.inf).argmin()
    uneven = jnp.where(there_M, score_M, 0.0).max() > (1 + c.margin) * score_M[weakest]
    grows = uneven & (carry["epoch"] % every == 0)
    layers = jnp.minimum(params["layers"] + grows * (jnp.arange(M) == weakest), c.most)
    return params | {"layers": layers}, start(params) | dict(epoch=carry["epoch"] + 1)

  turns = tuple(((f"own_{m}",), ((f"encode_{m}",), (f"first_{m}",), (f"boost_{m}",), ("classify",)))
                for m in spec.modalities)
  stage = stages.joint(config, {f"own_{m}": 1.0 for m in spec.modalities}, turns=turns)
  return Model(init, apply, loss, probability, (stage,), vary, pretrained, fixed=(("layers",),),
               hooks=Hooks(start=start, see=see, adjust=adjust, close=close))


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
