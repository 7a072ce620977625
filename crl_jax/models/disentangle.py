"""Tokens split into what modalities share and what is a modality's own.

shaspec: ShaSpec (Wang et al., CVPR 2023). `f_m = r_m + W [r_m | t_m]` of a shared r and an own t;
  where a modality is missing the mean of the others' r stands for it.
drfuse: DrFuse (Yao et al., AAAI 2024, arXiv 2403.06197). The shared parts are united by a logical
  or of their features, and each task attends to the own parts and the united one.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, losses, rows, stages, views
from crl_jax.models.parts.noise import dropout
from crl_jax.models.record import Model, Outputs, Stage

WARM = "warm"   # the mode of ShaSpec's first stage


class ShaSpec(nn.Module):
  """One row; in training, but for the mode WARM, a part of what is observed is dropped."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise, mode=""):
    c, M = self.config, len(self.modalities)
    seen_M = observed_M
    if mode != WARM or self.is_initializing():
      seen_M = views.drop_count(observed_M, noise, c.drop)
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, seen_M, noise))
    kind_MxD = self.param("kind", nn.initializers.normal(0.02), (M, c.width)).astype(e_MxD.dtype)
    there_Mx1 = seen_M[:, None].astype(e_MxD.dtype)
    shared_MxD = nn.Dense(c.width, name="shared_out")(
        nn.relu(nn.Dense(c.width, name="shared")(e_MxD + kind_MxD)))
    own_MxD = jnp.stack([
        nn.Dense(c.width, name=f"own_{m}_out")(nn.relu(nn.Dense(c.width, name=f"own_{m}")(e)))
        for m, e in zip(self.modalities, e_MxD)])
    mean = (shared_MxD * there_Mx1).sum(0) / jnp.maximum(there_Mx1.sum(), 1)
    both_MxD = shared_MxD + nn.Dense(c.width, name="mix")(
        jnp.concatenate([shared_MxD, own_MxD], 1))
    filled_MxD = jnp.where(there_Mx1 > 0, both_MxD, mean)
    h = dropout(filled_MxD.mean(0), noise)
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), h, dict(
        shared=shared_MxD, own=own_MxD, filled=filled_MxD, seen=seen_M,
        domain=nn.Dense(M, name="domain")(own_MxD)))


def build_shaspec(config, spec):
  """shaspec. Arguments as models.build; returns a Model.

  Terms: shared, the mean absolute difference of two observed modalities' shared parts, over their
  pairs; domain, the cross-entropy of telling a modality from its own part (published code of others
  tells it from the shared one).
  """
  c, M = settings.chosen(config), len(spec.modalities)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(
      ShaSpec(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper)), inputs, M,
      c.dropout, {"mode": ""})

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    named = outputs.named
    seen_BxM = named["seen"] & batch.valid[:, None]
    terms = {"prediction": prediction(outputs.logits, batch)}
    if pairs := _pairs(M):
      apart = jnp.stack([jnp.abs(named["shared"][:, a] - named["shared"][:, b]).mean(-1)
                         for a, b in pairs], 1)
      both = jnp.stack([seen_BxM[:, a] & seen_BxM[:, b] for a, b in pairs], 1)
      terms["shared"] = _over(apart, both)
    which = -jax.nn.log_softmax(named["domain"])[:, jnp.arange(M), jnp.arange(M)]
    return terms | {"domain": (losses.masked(which, seen_BxM), 1.0)}

  weights = dict(prediction=1.0, shared=c.weights.shared, domain=c.weights.domain)
  warm = c.stages.warm
  phases = (Stage(WARM, warm.epochs, warm.learning_rate, weights, None, mode=WARM),
            stages.joint(config, weights))
  return Model(init, apply, loss, probability, phases, vary, pretrained)


class DrFuse(nn.Module):
  """One row: own parts u_m, shared parts s_m and their union, and attention of every task to
  them."""
  config: ml_collections.FrozenConfigDict
  modalities: tuple
  encoders: tuple
  tasks: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    D, T = self.config.width, len(self.tasks)
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    per = lambda name: jnp.stack([nn.Dense(D, name=f"{name}_{m}")(e)
                                  for m, e in zip(self.modalities, e_MxD)])
    shared_MxD = per("shared")
    for i, size in enumerate((2 * D, D)):
      shared_MxD = dropout(nn.relu(nn.Dense(size, name=f"common_{i}")(shared_MxD)), noise)
    shared_MxD = nn.Dense(D, name="common_2")(shared_MxD)
    own_MxD = per("own")

    united = union(shared_MxD, observed_M)
    slots_KxD = jnp.concatenate([own_MxD, united[None]])
    there_K = jnp.concatenate([observed_M, jnp.ones(1, bool)])
    q_KxD, v_KxD, *k_TxKxD = jnp.split(
        nn.Dense((2 + T) * D, name="attention")(slots_KxD), 2 + T, -1)
    q = (q_KxD * there_K[:, None]).sum(0) / there_K.sum()
    score_TxK = jnp.einsum("d,tkd->tk", q, jnp.stack(k_TxKxD)).astype(jnp.float32) * D ** -0.5
    weight_TxK = nn.softmax(jnp.where(there_K, score_TxK, -jnp.inf))
    f_TxD = dropout(weight_TxK.astype(v_KxD.dtype) @ v_KxD, noise)
    kernel = self.param("head", nn.initializers.lecun_normal(in_axis=1, out_axis=0), (T, D))
    bias = self.param("head_bias", nn.initializers.zeros, (T,))
    said = [nn.Dense(T, name=f"only_{m}")(u) for m, u in zip(self.modalities, own_MxD)]
    said.append(nn.Dense(T, name="only_shared")(united))
    return Outputs((f_TxD * kernel).sum(1) + bias, f_TxD.mean(0), dict(
        shared=shared_MxD, own=own_MxD, united=united, weights=weight_TxK, said=jnp.stack(said)))


def union(shared_MxD, observed_M):
  """(D,) the logical or of the observed rows' features, as logits: of one row that row, of none 0.

  `logsumexp_m log sigmoid(s_m) - logsumexp_m log sigmoid(-s_m)`.
  """
  inside = lambda x: jnp.where(observed_M[:, None], jax.nn.log_sigmoid(x), -1e9)
  either = (jax.nn.logsumexp(inside(shared_MxD), 0) - jax.nn.logsumexp(inside(-shared_MxD), 0))
  return jnp.where(observed_M.any(), either, 0.0)


def build_drfuse(config, spec):
  """drfuse. Arguments as models.build; returns a Model.

  Terms: own_<modality> and own_shared, what each part says alone; jsd, the Jensen-Shannon
  divergence of two modalities' shared parts as features' probabilities, over pairs of observed ones
  (published code counts missing ones too); distinct_<modality>, |cos| of its shared and own part;
  rank, that a task attends more to the part whose own answer costs less.
  """
  c, M = settings.chosen(config), len(spec.modalities)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(DrFuse(c, spec.modalities, makers, spec.tasks), inputs, M,
                                   c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    named = outputs.named
    seen_BxM = batch.observed & batch.valid[:, None]
    terms = {"prediction": prediction(outputs.logits, batch),
             "own_shared": prediction(named["said"][:, M], batch)}
    for i, m in enumerate(spec.modalities):
      terms[f"own_{m}"] = prediction(named["said"][:, i], heads.having(batch, i))
      alike = jnp.abs(_cosine(named["shared"][:, i], named["own"][:, i]))
      terms[f"distinct_{m}"] = (losses.masked(alike[:, None], seen_BxM[:, i:i + 1]), 1.0)
    if pairs := _pairs(M):
      apart = jnp.stack([_jsd(named["shared"][:, a], named["shared"][:, b]) for a, b in pairs], 1)
      terms["jsd"] = _over(apart, jnp.stack([seen_BxM[:, a] & seen_BxM[:, b] for a, b in pairs], 1))
    cost_BxKxT = jax.vmap(lambda z: prediction(z, batch)[0].value, 1, 1)(named["said"])
    there_BxK = jnp.concatenate([seen_BxM, batch.valid[:, None]], 1)
    return terms | {"rank": (_rank(cost_BxKxT, named["weights"], there_BxK, batch), 1.0)}

  w = c.weights
  weights = dict(prediction=1.0, own_shared=w.shared, jsd=w.jsd, rank=w.rank,
                 **{f"own_{m}": w.own for m in spec.modalities},
                 **{f"distinct_{m}": w.distinct for m in spec.modalities})
  return Model(init, apply, loss, probability, (stages.joint(config, weights),), vary, pretrained)


def _pairs(M):
  return tuple(itertools.combinations(range(M), 2))


def _over(value_BxP, pairs_BxP):
  """(Term (B, 1), 1) of the mean over a row's pairs, and over the rows that have any."""
  count = pairs_BxP.sum(1, keepdims=True)
  mean = jnp.where(pairs_BxP, value_BxP, 0.0).sum(1, keepdims=True) / jnp.maximum(count, 1)
  return losses.masked(mean, count > 0), 1.0


def _cosine(a, b):
  unit = lambda x: x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))
  return (unit(a) * unit(b)).sum(-1)


def _jsd(a, b):
  """Jensen-Shannon divergence of Bernoulli features with these logits (..., D), their mean."""
  p, q = jax.nn.sigmoid(a), jax.nn.sigmoid(b)
  m = jnp.clip((p + q) / 2, 1e-7, 1 - 1e-7)
  def to_middle(logit, p):
    return (p * (jax.nn.log_sigmoid(logit) - jnp.log(m)) +
            (1 - p) * (jax.nn.log_sigmoid(-logit) - jnp.log1p(-m)))
  return ((to_middle(a, p) + to_middle(b, q)) / 2).mean(-1)


def _rank(cost_BxKxT, weights_BxTxK, there_BxK, batch):
  """Term (B, 1): the mean of `a_j - a_i` over pairs of parts and tasks where i costs less
  than j and the difference is positive."""
  cost = jax.lax.stop_gradient(cost_BxKxT).swapaxes(1, 2)
  labelled_BxT = ~jnp.isnan(batch.labels)
  sign = jnp.sign(cost[:, :, None] - cost[:, :, :, None])   # [i, j]: 1 where i costs less
  wrong = nn.relu(-sign * (weights_BxTxK[..., None] - weights_BxTxK[:, :, None]))
  upper = jnp.triu(jnp.ones(wrong.shape[-2:], bool), 1)
  counts = (labelled_BxT[..., None, None] & there_BxK[:, None, :, None] & there_BxK[:, None, None]
            & upper & (wrong > 0))
  value = jnp.where(counts, wrong, 0.0).sum((1, 2, 3))[:, None]
  return losses.Term(value, batch.valid[:, None].astype(value.dtype),
                     counts.sum((1, 2, 3))[:, None].astype(value.dtype))
