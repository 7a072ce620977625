"""Representations that are made to survive a missing modality.

cm_ae: the bimodal deep autoencoder (Ngiam et al., ICML 2011), our reading: a code of what is
  observed, and of each modality alone, gives back all modalities' tokens; then outcomes are
  predicted from it.
missmodal: MissModal (Lin and Hu, TACL 2023), our reading of its abstract, whose repository holds no
  code: what a part of a row's modalities gives is drawn to what all of them give.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, fusion, heads, losses, rows, stages, views
from crl_jax.models.parts.noise import dropout
from crl_jax.models.record import Model, Outputs, Stage


class Autoencoder(nn.Module):
  """One row: `z = tanh(W [v_m sigmoid(W_m e_m)])` for the view v of what is observed and those of
  one modality alone; decoders of z; heads of the first."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    D, M = self.config.width, len(self.modalities)
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    a_MxD = jnp.stack([nn.sigmoid(nn.Dense(D, name=f"code_{m}")(e))
                       for m, e in zip(self.modalities, e_MxD)])
    views_VxM = jnp.concatenate([jnp.ones((1, M), bool), jnp.eye(M, dtype=bool)]) & observed_M
    z_VxD = nn.tanh(nn.Dense(D, name="mix")((a_MxD * views_VxM[..., None]).reshape(M + 1, -1)))
    decoded_VxMxD = jnp.stack([nn.Dense(D, name=f"decode_{m}")(z_VxD) for m in self.modalities], 1)
    h = dropout(z_VxD[0], noise)
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), z_VxD[0], dict(
        decoded=decoded_VxMxD, views=views_VxM.any(1), embeddings=e_MxD))


def build_cm_ae(config, spec):
  """cm_ae. Arguments as models.build; returns a Model."""
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(
      Autoencoder(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper)), inputs,
      len(spec.modalities), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    named = outputs.named
    views_BxVx1 = named["views"][..., None]
    target_BxMxD = jax.lax.stop_gradient(named["embeddings"])
    each_BxVxM = jnp.square(named["decoded"] - target_BxMxD[:, None]).mean(-1)
    mean_BxM = (each_BxVxM * views_BxVx1).sum(1) / jnp.maximum(views_BxVx1.sum(1), 1)
    return {"prediction": prediction(outputs.logits, batch), "reconstruction": (losses.masked(
        mean_BxM, batch.observed & batch.valid[:, None]), 1.0)}

  names = [f"{part}_{m}" for m in spec.modalities for part in ("encode", "code", "decode")]
  own = tuple((f"head_{t}",) for t in spec.tasks)
  first = c.stages.autoencode
  phases = (Stage("autoencode", first.epochs, first.learning_rate,
                  dict(prediction=0.0, reconstruction=1.0), None,
                  trains=(("mix",), *((name,) for name in names))),
            stages.joint(config, dict(prediction=1.0, reconstruction=c.weights.reconstruction),
                         trains=own if c.frozen else ()))
  return Model(init, apply, loss, probability, phases, vary, pretrained)


class MissModal(nn.Module):
  """One row: one fusion of two views, all that is observed and a random part of it."""
  config: ml_collections.FrozenConfigDict
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    c = self.config
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    visible_VxM = observed_M[None]
    if noise is not None:   # predictions need the whole view alone
      visible_VxM = jnp.stack([observed_M, views.drop_count(observed_M, noise)])
    h_VxD, _ = fusion.Fusion(c.heads, c.layers, name="fusion")(e_MxD, visible_VxM, noise)
    classify = heads.shared(self.tasks, self.deeper, c.width)
    named = {}
    if noise is not None:
      named = dict(part=h_VxD[1], part_logits=classify(h_VxD[1], noise), seen=visible_VxM[1])
    return Outputs(classify(h_VxD[0], noise), h_VxD[0], named)


def build_missmodal(config, spec):
  """missmodal. Arguments as models.build; returns a Model.

  Terms, on rows with more than one modality: contrast, InfoNCE of a row's two views among the
  batch's, in both directions; distance, the part's mean squared distance to the whole, which is
  held constant; semantic, the prediction of the part.
  """
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(
      MissModal(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper)), inputs,
      len(spec.modalities), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    terms, named = {"prediction": prediction(outputs.logits, batch)}, outputs.named
    if "part" not in named:
      return terms
    two_B = (batch.observed.sum(1) > 1) & batch.valid
    whole, part = outputs.representation[:, None], named["part"][:, None]
    picks = lambda a, b: losses.info_nce(a, b, two_B[:, None], batch.patient, c.temperature, gather)
    there, back = picks(part, whole), picks(whole, part)
    count = two_B[:, None].astype(whole.dtype)
    return terms | {
        "contrast": (there.replace(value=(there.value + back.value) / 2), 1.0),
        "distance": (losses.reconstruction(part, whole, count, count), 1.0),
        "semantic": prediction(named["part_logits"], batch.replace(
            labels=jnp.where(two_B[:, None], batch.labels, jnp.nan)))}

  weights = dict(prediction=1.0, **c.weights.to_dict())
  return Model(init, apply, loss, probability, (stages.joint(config, weights),), vary, pretrained)
