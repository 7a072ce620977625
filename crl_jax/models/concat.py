"""Fusion by concatenation: the tokens of the modalities side by side, and a linear map of them.

late_fusion: "LateFusion" of CareBench (2025), a linear layer of what is there.
early, joint: MedFuse's baselines (Hayat, Geras and Shamout, MLHC 2022): a learned vector stands for
  a missing modality; `early` trains the encoders alone first and freezes them.
unified: Hayat, Geras and Shamout, arXiv 2111.02710. Our reading of its abstract: no code of its
  training is public.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, losses, patterns, rows, stages
from crl_jax.models.record import Model, Outputs

class Late(nn.Module):
  """One row: `W [e_1 delta_1 | ... | e_M delta_M] + b`, or the mean of what the observed modalities
  say alone."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    seen_Mx1 = observed_M[:, None].astype(e_MxD.dtype)
    there_MxD = e_MxD * seen_Mx1
    if self.config.fill == "absent":
      there_MxD += _absent(self, e_MxD) * (1 - seen_Mx1)
    if self.config.average:
      each_MxT = jnp.stack([nn.Dense(len(self.tasks), name=f"head_{m}")(e)
                            for m, e in zip(self.modalities, there_MxD)])
      logits = (each_MxT * seen_Mx1).sum(0) / jnp.maximum(seen_Mx1.sum(), 1)
    else:
      logits = nn.Dense(len(self.tasks), name="head")(there_MxD.reshape(-1))
    return Outputs(logits, there_MxD.reshape(-1), {})


class Filled(nn.Module):
  """One row: a Dense of the tokens, a learned vector where one is missing, and the heads. In the
  mode stages.ALONE a linear head of each modality."""
  config: ml_collections.FrozenConfigDict
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple
  first: bool   # whether there is such a mode

  @nn.compact
  def __call__(self, inputs, observed_M, noise, mode=""):
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    if self.first and (mode == stages.ALONE or self.is_initializing()):
      found = stages.alone_outputs(e_MxD, observed_M, self.modalities, len(self.tasks))
      if mode == stages.ALONE:
        return found
    filled_MxD = jnp.where(observed_M[:, None], e_MxD, _absent(self, e_MxD))
    h = nn.Dense(self.config.width, name="project")(filled_MxD.reshape(-1))
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), h, {})


def _absent(module, e_MxD):
  """(M, D) learned vectors that stand for missing modalities."""
  return module.param("absent", nn.initializers.normal(0.02), e_MxD.shape).astype(e_MxD.dtype)


class Unified(nn.Module):
  """One row: a linear head for every pattern S of a table, of the tokens that S names alone."""
  config: ml_collections.FrozenConfigDict
  modalities: tuple
  encoders: tuple
  tasks: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise, prepared):
    table_PxM, share_P = prepared["patterns"], prepared["share"]
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    shape = (len(table_PxM), *e_MxD.shape, len(self.tasks))
    kernel = self.param("kernel", nn.initializers.variance_scaling(
        1.0, "fan_in", "truncated_normal", (1, 2), 3, (0,)), shape).astype(e_MxD.dtype)
    bias = self.param("bias", nn.initializers.zeros, (shape[0], shape[-1])).astype(e_MxD.dtype)
    each_PxT = jnp.einsum("pm,md,pmdt->pt", table_PxM.astype(e_MxD.dtype), e_MxD, kernel) + bias
    chosen = patterns.largest(table_PxM, share_P, observed_M)
    return Outputs(each_PxT[chosen], (e_MxD * observed_M[:, None]).reshape(-1), dict(
        heads=each_PxT, trained=patterns.trained(
            table_PxM, share_P, observed_M, self.config.subsets == "all")))


def build_late(config, spec):
  """late_fusion. Arguments as models.build; returns a Model."""
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(Late(c, spec.modalities, makers, spec.tasks), inputs,
                                   len(spec.modalities), c.dropout)
  return Model(init, apply, stages.loss(prediction, spec.modalities), probability,
               (stages.joint(config),), vary, pretrained)


def build_early(config, spec):
  """early. Arguments as models.build; returns a Model."""
  return _filled(config, spec, first=True)


def build_joint(config, spec):
  """joint. Arguments as models.build; returns a Model."""
  return _filled(config, spec, first=False)


def _filled(config, spec, first):
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  module = Filled(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper), first)
  init, apply, vary = rows.batched(module, inputs, len(spec.modalities), c.dropout,
                                   {"mode": ""} if first else None)
  phases = (stages.joint(config),)
  if first:
    own = ("absent",), ("project",), *((f"head_{task}",) for task in spec.tasks)
    phases = (stages.alone(c.stages.alone, spec.modalities),
              stages.joint(config, trains=own, rows=_paired if c.paired else None))
  return Model(init, apply, stages.loss(prediction, spec.modalities), probability, phases, vary,
               pretrained)


def build_unified(config, spec):
  """unified. Arguments as models.build; returns a Model.

  Raises ValueError where all subsets are asked for of more than three modalities.
  """
  c, M = settings.chosen(config), len(spec.modalities)
  if c.subsets == "all" and M > 3:
    raise ValueError(f"model.unified.subsets 'all' is for up to three modalities; there are {M}: "
                     "choose 'singletons'.")
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)

  def prepare(observed, labels):
    del labels
    known = patterns.table(observed, least=c.least)
    lines = [*np.eye(M, dtype=bool), *known[known.sum(1) > 1]]
    if c.subsets == "all":
      lines = sorted((np.array(p) for p in itertools.product((False, True), repeat=M) if any(p)),
                     key=sum)
    return patterns.with_shares([*lines, np.zeros(M, bool)], observed, M + len(known) + 1)

  example = jax.tree.map(jnp.asarray, prepare(np.zeros((0, M), bool), None))
  init, apply, vary = rows.batched(Unified(c, spec.modalities, makers, spec.tasks), inputs, M,
                                   c.dropout, {"prepared": example})

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    trained_BxP = outputs.named["trained"].astype(outputs.logits.dtype)
    term, weights = prediction(outputs.logits, batch)
    each_BxPxT = jax.vmap(lambda z: prediction(z, batch)[0].value, 1, 1)(outputs.named["heads"])
    mean = jnp.einsum("bpt,bp->bt", each_BxPxT, trained_BxP) / jnp.maximum(
        trained_BxP.sum(1, keepdims=True), 1)
    return {"prediction": (losses.Term(mean, term.weight, term.count), weights)}

  return Model(init, apply, loss, probability, (stages.joint(config),), vary, pretrained,
               prepare=prepare)


def _paired(observed, labels, rng):
  del labels, rng
  return observed.all(1)
