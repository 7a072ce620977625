"""The stages that many methods share: all parts together, and before that every modality's encoder
under a linear head of its own, on the rows that have the modality."""

import flax.linen as nn
import jax.numpy as jnp

from crl_jax.models.parts import heads
from crl_jax.models.record import Outputs, Stage

ALONE = "alone"   # the mode


def joint(config, weights=None, **how):
  """The Stage of config.train.joint; `weights` of its loss terms, the prediction's if None."""
  t = config.train.joint
  return Stage("joint", t.epochs, t.learning_rate, dict(weights or {"prediction": 1.0}),
               t.patience or None, **how)


def alone(settings, modalities):
  """The Stage in the mode ALONE; `settings`: its epochs and learning_rate."""
  return Stage(ALONE, settings.epochs, settings.learning_rate,
               {f"alone_{m}": 1.0 for m in modalities}, None, mode=ALONE,
               trains=tuple((f"{part}_{m}",) for m in modalities for part in ("encode", "alone")))


def alone_outputs(e_MxD, observed_M, modalities, tasks):
  """The Outputs of a row in the mode ALONE from its tokens; its answer is the mean of what its
  modalities say of the number `tasks`. To be called in a module's @nn.compact."""
  each_MxT = jnp.stack([nn.Dense(tasks, name=f"alone_{m}")(e) for m, e in zip(modalities, e_MxD)])
  seen_Mx1 = observed_M[:, None].astype(e_MxD.dtype)
  mean = lambda x: (x * seen_Mx1).sum(0) / jnp.maximum(seen_Mx1.sum(), 1)
  return Outputs(mean(each_MxT), mean(e_MxD), dict(alone=each_MxT))


def loss(prediction, modalities):
  """The loss of a Model without terms of its own: "prediction", or in the mode ALONE
  "alone_<modality>"; `prediction` from heads.prediction()."""
  def loss(outputs, batch, gather=lambda x: x):
    del gather
    if "alone" not in outputs.named:
      return {"prediction": prediction(outputs.logits, batch)}
    return {f"alone_{m}": prediction(outputs.named["alone"][:, i], heads.having(batch, i))
            for i, m in enumerate(modalities)}
  return loss
