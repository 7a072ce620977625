"""Missingness-aware fusion (arXiv 2509.17228, stage 1a): gates and masked attention over any number
of modalities, one row."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from crl_jax.models.parts.noise import dropout
from crl_jax.models.parts.rows import token_product

# for the tokens of all views of a row
_Dense = functools.partial(nn.Dense, dot_general=token_product)


class MissingnessEmbedding(nn.Module):
  """`z = f_phi(delta)` (D,) and the decoded pattern logits `delta_hat = g(z)` (M,)."""
  width: int

  @nn.compact
  def __call__(self, observed_M):
    z = nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(2.0 * observed_M - 1.0)))
    decoded = nn.Dense(observed_M.shape[0])(nn.relu(nn.Dense(self.width)(z)))
    return z, decoded


class Gate(nn.Module):
  """`sigmoid(W_m z + b_m)` for every modality: (D,) -> (M, D)."""
  modalities: int

  @nn.compact
  def __call__(self, z):
    return nn.sigmoid(nn.Dense(self.modalities * z.shape[0])(z)).reshape(self.modalities, -1)


class Attention(nn.Module):
  """Multi-head self-attention over S tokens for V views of a row that differ in their visible
  keys; W = 1 set of tokens that all views share, or W = V."""
  heads: int

  @nn.compact
  def __call__(self, tokens_WxSxD, visible_VxS):
    sets, length, width = tokens_WxSxD.shape
    # Query and key biases shift all scores of a softmax alike or not at all: they would train on
    # rounding errors.
    q, k = jnp.split(_Dense(2 * width, use_bias=False, name="query_key")(tokens_WxSxD), 2, -1)
    v = _Dense(width, name="value")(tokens_WxSxD)
    q, k, v = (x.reshape(sets, length, self.heads, -1) for x in (q, k, v))
    scores = jnp.einsum("wshd,wthd->whst", q, k) * (width // self.heads) ** -0.5
    scores = scores.astype(jnp.float32)
    scores = jnp.where(visible_VxS[:, None, None], scores, jnp.finfo(scores.dtype).min)
    weights_VxHxSxS = nn.softmax(scores).astype(v.dtype)
    mix = functools.partial(jnp.einsum, "hst,thd->shd")
    mixed = (jax.vmap(mix, (0, None))(weights_VxHxSxS, v[0]) if sets == 1 else
             jax.vmap(mix)(weights_VxHxSxS, v))
    return _Dense(width, name="output")(mixed.reshape(-1, length, width)), weights_VxHxSxS


class Fusion(nn.Module):
  """Masked attention fusion: attention, residual, LayerNorm, feed-forward, masked mean over the
  visible tokens.

  Args of the call:
    tokens_SxD: the row's tokens, finite; what invisible ones hold does not matter.
    visible_VxS: V views of the row (all observed; one of them hidden; ...), True where a token may
      be seen.
    noise: noise.Noise in training, or None.
  Returns:
    h (V, D), finite even for a view with nothing visible; attention weights of the last layer
    (V, H, S, S).
  """
  heads: int
  layers: int

  @nn.compact
  def __call__(self, tokens_SxD, visible_VxS, noise):
    width = tokens_SxD.shape[-1]
    x = tokens_SxD[None]   # the first layer's queries, keys and values serve every view
    for _ in range(self.layers):
      mixed, weights = Attention(self.heads)(x, visible_VxS)
      x = nn.LayerNorm()(x + dropout(mixed, noise))
      forward = _Dense(width)(nn.relu(_Dense(2 * width)(x)))
      x = nn.LayerNorm()(x + dropout(forward, noise))
    seen = visible_VxS[..., None].astype(x.dtype)
    return (x * seen).sum(1) / jnp.maximum(seen.sum(1), 1.0), weights


def hidden_one_random(observed_M, noise):
  """(M,) bool with one observed modality set, each equally likely; none where nothing is
  observed."""
  score = jnp.where(observed_M, noise.take(observed_M.shape).astype(jnp.int32), -1)
  return (jnp.arange(observed_M.shape[0]) == score.argmax()) & observed_M
