"""The losses of CRL-MMNAR: per row, masked, pure. A Term keeps values and masks apart until one
division at the end.

Axes: B rows, C columns (modalities or tasks), D width.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Term:
  """A loss before reduction: `sum_c [ sum_b value * weight / sum_b count ]`, columns with no count
  being zero.

  Attributes:
    value: (B, C) per row; finite wherever weight is 0 too.
    weight: (B, C) what a row adds to the numerator.
    count: (B, C) what it adds to the denominator (the weight itself for a plain masked mean).
  """
  value: jnp.ndarray
  weight: jnp.ndarray
  count: jnp.ndarray


def masked(value, mask):
  """Term of the plain mean of `value` (B, C) over `mask` (B, C)."""
  mask = mask.astype(value.dtype)
  return Term(value, mask, mask)


def reduce(term, column_weights=1.0, total=lambda x: x):
  """The scalar loss of a Term. `total` sums over devices where each holds a shard (identity in a
  global program)."""
  count = total(term.count.sum(0))
  column = (term.value * term.weight).sum(0) / jnp.maximum(count, 1.0)
  return jnp.sum(column * column_weights)


def focal(logits, labels, alpha, gamma):
  """Focal loss per element, `-a (1-p)^g y log p - (1-a) p^g (1-y) log(1-p)`.

  Args:
    logits: (B, T).
    labels: (B, T) in {0, 1, NaN}; a NaN counts in nothing.
    alpha, gamma: (T,) per task; alpha 0.5 and gamma 0 give half the log-loss.
  Returns:
    Term (B, T).
  """
  defined = ~jnp.isnan(labels)
  y = jnp.where(defined, labels, 0.0)
  z = jnp.where(defined, logits, 0.0)
  log_p, log_q = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
  value = -(alpha * y * jnp.exp(gamma * log_q) * log_p +
            (1 - alpha) * (1 - y) * jnp.exp(gamma * log_p) * log_q)
  return masked(value, defined)


def focal_probability(logits, alpha, gamma):
  """P(y = 1) for which `logits` minimises the expected focal loss.

  A focal loss is not proper: its minimiser q is not the probability p. Setting the derivative of
  `p a (1-q)^g log q + (1-p)(1-a) q^g log(1-q)` to zero gives p in closed form (Charoenphakdee et
  al., CVPR 2021, with the class weight a added). It is monotone in the logit, so rankings do not
  change.

  Args:
    logits: (..., T).
    alpha, gamma: (T,).
  Returns:
    (..., T) probabilities.
  """
  log_q, log_r = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)   # log q, log(1 - q)
  q, r = jnp.exp(log_q), jnp.exp(log_r)
  # Both derivatives times q (1 - q), and divided by (1-q)^g and q^g, which return as gamma * logit
  # below.
  positive = r - gamma * q * log_q
  negative = q - gamma * r * log_r
  logit = (jnp.log1p(-alpha) - jnp.log(alpha) + jnp.log(negative) - jnp.log(positive) +
           gamma * (log_q - log_r))
  return jax.nn.sigmoid(logit)


def missingness(logits, observed, valid):
  """Mean binary cross-entropy of the decoded pattern, `BCE(delta_hat, delta)`: Term (B, 1) from
  (B, M)."""
  z = observed.astype(logits.dtype)
  value = -(z * jax.nn.log_sigmoid(logits) + (1 - z) * jax.nn.log_sigmoid(-logits)).mean(
      1, keepdims=True)
  return masked(value, valid[:, None])


def reconstruction(decoded, target, weight, count, stop_gradient=True):
  """`||e^_m - e_m||^2 / D` per row and modality.

  Args:
    decoded, target: (B, M, D).
    weight, count: (B, M), see Term.
    stop_gradient: hold the target constant.
  Returns:
    Term (B, M).
  """
  target = jax.lax.stop_gradient(target) if stop_gradient else target
  return Term(jnp.square(decoded - target).mean(-1), weight, count)


def info_nce(anchor, candidate, present, patient, temperature, gather=lambda x: x):
  """Cross-entropy of picking each row's own reconstruction among the global batch's, per modality.

  `-log( exp s_ii / sum_{j in B_m} exp s_ij )`, `s_ij = cos(e_im, e^_jm) / tau`. Other rows of the
  same patient are neither positive nor negative.

  Args:
    anchor: (B, M, D) embeddings e.
    candidate: (B, M, D) reconstructions e^.
    present: (B, M) bool, rows that have both.
    patient: (B,) int.
    temperature: tau.
    gather: collects the rows of every device in a per-device program; identity in a global one.
  Returns:
    Term (B, M).
  """
  def unit(x):
    x = jnp.where(present[..., None], x, 0.0)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-4))
  anchor, candidate = unit(anchor), unit(candidate)
  everyone, there, whose = gather(candidate), gather(present), gather(patient)
  s_BxGxM = jnp.einsum("bmd,gmd->bgm", anchor, everyone) / temperature
  own_BxM = (anchor * candidate).sum(-1) / temperature
  negative = there[None] & (patient[:, None] != whose[None])[..., None]
  s_BxGxM = jnp.where(negative, s_BxGxM, -jnp.inf)
  # own is finite, so the maximum is, and a row with no negative has loss 0.
  top = jax.lax.stop_gradient(jnp.maximum(s_BxGxM.max(1), own_BxM))
  others = jnp.exp(s_BxGxM - top[:, None]).sum(1)
  value = top + jnp.log(others + jnp.exp(own_BxM - top)) - own_BxM
  return masked(value, present)


def classification(logits, index, mask):
  """Cross-entropy of class `index` (B,) under `logits` (B, P): Term (B, 1) over `mask` (B,)."""
  value = -jnp.take_along_axis(jax.nn.log_softmax(logits), index[:, None], 1)
  return masked(value, mask[:, None])
