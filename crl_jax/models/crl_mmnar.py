"""CRL-MMNAR (Liang et al., arXiv 2509.17228): the model, its per-row losses and its two training
phases."""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, fusion, heads, losses, rows
from crl_jax.models.record import Model, Outputs, Stage


# the pattern's term is so many times its parameter: Adam moves a parameter by its learning rate,
# and a term of half a log-odds must be reached within some hundred steps
_TERM = 10.0


class CrlMmnar(nn.Module):
  """One row through encoders, gates, fusion, cross-modality reconstruction and heads. Batched by
  vmap in build()."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple                           # per modality, (name=) -> module
  tasks: tuple
  deeper: tuple
  patterns: tuple                           # P rows of M bits

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    c, M = self.config, len(self.modalities)
    # the precision of the inputs is that of all arithmetic; token ids have none
    dtypes = [x.dtype for x in inputs.values() if jnp.issubdtype(x.dtype, jnp.floating)]
    seen_M = observed_M.astype(dtypes[0] if dtypes else jnp.float32)
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))

    named = {}
    z, delta_logits = fusion.MissingnessEmbedding(c.width, name="missingness")(seen_M)
    if c.conditioning:
      gates = fusion.Gate(M, name="gate")(z)
      gated_SxD = jnp.concatenate([gates * e_MxD, z[None]])
      always = jnp.ones(1, bool)
      named |= dict(gates=gates, missingness_embedding=z, missingness_logits=delta_logits)
    else:
      gated_SxD, always = e_MxD, jnp.zeros(0, bool)

    hidden_VxM = jnp.zeros((1, M), bool)
    # predictions need the one full view alone
    reconstruct = c.reconstruction and noise is not None
    if reconstruct and c.hide == "all":
      hidden_VxM = jnp.concatenate([hidden_VxM, jnp.eye(M, dtype=bool)])
    elif reconstruct:
      hidden_VxM = jnp.concatenate([hidden_VxM, fusion.hidden_one_random(observed_M, noise)[None]])
    visible_VxS = jnp.concatenate(
        [observed_M & ~hidden_VxM, jnp.broadcast_to(always, (len(hidden_VxM), len(always)))], 1)
    h_VxD, attention = fusion.Fusion(c.heads, c.layers, name="fusion")(
        gated_SxD, visible_VxS, noise)
    h, attention = h_VxD[0], attention[0]

    if reconstruct:
      h_without = h_VxD[1:] if c.hide == "all" else jnp.broadcast_to(h_VxD[1:], (M, c.width))
      decoded = [nn.Dense(c.width, name=f"decode_{name}_out")(
          nn.relu(nn.Dense(c.width, name=f"decode_{name}")(h_without[m])))
          for m, name in enumerate(self.modalities)]
      eligible = seen_M * (seen_M.sum() > 1)
      hidden = hidden_VxM[1:].any(0) * eligible
      # A row hides one of its n modalities at a time: n times its loss keeps the estimate unbiased.
      weight = hidden if c.hide == "all" else hidden * seen_M.sum()
      named |= dict(decoded=jnp.stack(decoded), hidden=hidden, rec_weight=weight,
                    rec_count=eligible)

    logits = heads.logits(h, self.tasks, self.deeper, noise)
    if c.pattern_term:   # the paper's gamma_t[p]; 0, the prior's mean, in a pattern never seen
      table_PxT = self.param("pattern_term", nn.initializers.zeros,
                             (len(self.patterns), len(self.tasks)))
      same_P = (observed_M == jnp.array(self.patterns, bool)).all(-1)
      named["pattern_term"] = term_T = _TERM * (same_P.astype(logits.dtype) @ table_PxT)
      logits = logits + term_T
    if c.pattern_head:
      named["pattern_logits"] = nn.Dense(len(self.patterns), name="pattern")(h)
    return Outputs(logits, h, dict(named, embeddings=e_MxD, attention=attention))


def build(config, spec):
  """Builds the model for one cohort's shapes.

  Args:
    config: the whole tree; config.model and config.loss are read.
    spec: models.record.Spec.
  Returns:
    Model.
  """
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  bits = tuple(tuple(bool(p >> m & 1) for m in range(len(spec.modalities))) for p in spec.patterns)
  module = CrlMmnar(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper), bits)
  prediction, probability = heads.prediction(config, spec.tasks)
  patterns = jnp.array(bits)

  # of each pattern's rows, those that a member is trained on
  share = (1 - 1 / config.splits.folds) * (1 - config.splits.validation)
  trained_P = share * jnp.array(spec.rows or (1,) * len(bits), jnp.float32)

  def shrinkage(term_BxT, observed):
    """(B, T): summed over its rows, minus the log of a pattern's prior, on the scale of a loss that
    is half the log-loss."""
    same_BxP = (observed[:, None] == patterns[None]).all(-1)
    rows_B = jnp.maximum(same_BxP @ trained_P, 1)
    return 0.5 * term_BxT**2 / (2 * c.pattern_term**2 * rows_B[:, None])

  init, apply, vary = rows.batched(module, inputs, len(spec.modalities), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    named = outputs.named
    term, weights = prediction(outputs.logits, batch)
    if c.pattern_term:
      term = term.replace(value=term.value + shrinkage(named["pattern_term"], batch.observed))
    terms = {"prediction": (term, weights)}
    if c.conditioning:
      terms["missingness"] = (losses.missingness(named["missingness_logits"], batch.observed,
                                                 batch.valid), 1.0)
    if "decoded" in named:
      valid = batch.valid[:, None]
      terms["reconstruction"] = (losses.reconstruction(
          named["decoded"], named["embeddings"], named["rec_weight"] * valid,
          named["rec_count"] * valid, c.stop_gradient), 1.0)
      if c.contrastive:
        terms["contrastive"] = (losses.info_nce(named["embeddings"], named["decoded"],
                                                (named["hidden"] > 0) & valid, batch.patient,
                                                c.temperature, gather), 1.0)
    if c.pattern_head:
      match = (batch.observed[:, None] == patterns[None]).all(-1)
      terms["pattern"] = (losses.classification(
          named["pattern_logits"], match.argmax(1), match.any(1) & batch.valid), 1.0)
    return terms

  t = config.train
  stages = tuple(stage for stage in (
      Stage("pretrain", t.pretrain.epochs, t.pretrain.learning_rate, t.pretrain.weights.to_dict(),
            None),
      Stage("joint", t.joint.epochs, t.joint.learning_rate, t.joint.weights.to_dict(),
            t.joint.patience or None),
  ) if stage.epochs)
  return Model(init, apply, loss, probability, stages, vary, pretrained)
