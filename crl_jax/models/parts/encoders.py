"""Encoders: one modality's preprocessed input of one row -> its token in R^D. Written without a
batch axis. A new kind of input is a module (those of series and images are in series.py and
vision.py), a line in ENCODERS and one in data.cohort.KINDS."""

import dataclasses
import functools
from typing import Callable

import flax.linen as nn
import jax.numpy as jnp

from crl_jax.backbones import bert
from crl_jax.data.cohort import KINDS
from crl_jax.models.parts import series, vision
from crl_jax.models.parts.noise import dropout, input_dropout
from crl_jax.models.record import Pretrained


class VectorEncoder(nn.Module):
  """(..., F) -> (..., D). Dense 2D, LayerNorm, ReLU, Dropout, Dense D, LayerNorm, ReLU, Dropout,
  Dense D, LayerNorm."""
  width: int
  input_dropout: float

  @nn.compact
  def __call__(self, x, noise):
    x = input_dropout(x, self.input_dropout, noise)
    for width in (2 * self.width, self.width):
      x = dropout(nn.relu(nn.LayerNorm()(nn.Dense(width)(x))), noise)
    return nn.LayerNorm()(nn.Dense(self.width)(x))


class SequenceEncoder(nn.Module):
  """(L, F) -> (D,). A GRU over time; steps of zeros alone are padding and leave the state as it is.
  (Preprocessing delivers a last feature that is 1 on every other step.)"""
  width: int
  input_dropout: float

  @nn.compact
  def __call__(self, x, noise):
    real = jnp.any(x != 0, -1)
    x = input_dropout(x, self.input_dropout, noise)
    states = nn.RNN(nn.GRUCell(self.width))(nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x))))
    last = jnp.max(jnp.where(real, jnp.arange(x.shape[0]), 0))
    return nn.LayerNorm()(nn.Dense(self.width)(dropout(states[last], noise)))


class Pool(nn.Module):
  """(K, D) -> (D,), a weighted mean of the `real` (K,) entries; zero where there is none.

  The weights are equal ("mean") or a softmax of learned scores of each entry ("attention": Ilse et
  al., ICML 2018).
  """
  how: str

  @nn.compact
  def __call__(self, e_KxD, real_K):
    score_K = jnp.zeros(real_K.shape)
    if self.how == "attention":
      hidden = nn.tanh(nn.Dense(e_KxD.shape[-1], name="hidden")(e_KxD))
      score_K = nn.Dense(1, use_bias=False, name="score")(hidden)[:, 0].astype(jnp.float32)
    weights_K = nn.softmax(jnp.where(real_K, score_K, jnp.finfo(jnp.float32).min)) * real_K
    return weights_K.astype(e_KxD.dtype) @ e_KxD


class SetEncoder(nn.Module):
  """(K, F) -> (D,), the same for any order of the K entries. Each is encoded as a vector, then they
  are pooled; entries whose features are all zero are padding."""
  width: int
  input_dropout: float
  pooling: str

  @nn.compact
  def __call__(self, x, noise):
    e_KxD = VectorEncoder(self.width, self.input_dropout, name="entry")(x, noise)
    return nn.LayerNorm()(Pool(self.pooling, name="pool")(e_KxD, jnp.any(x != 0, -1)))


class TextEncoder(nn.Module):
  """(K, L) token ids of windows -> (D,). BERT, one vector per window, and these as a set; id 0 is
  padding."""
  read: Callable      # (name=) -> bert.Bert
  pooling: str        # of a window, see bert.pool()
  combine: Callable   # (name=) -> SetEncoder

  @nn.compact
  def __call__(self, ids, noise):
    seen_KxL = ids != 0
    key = None if noise is None else noise.key()
    states = self.read(name="bert")(ids, seen_KxL, key)
    return self.combine(name="windows")(bert.pool(states, seen_KxL, self.pooling), noise)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """What a model needs to know of the encoder of a kind of input.

  Attributes:
    make: (name=) -> the flax module.
    pretrained: tuple of record.Pretrained, their paths within the module.
  """
  make: Callable
  pretrained: tuple = ()


def _vector(config):
  return Encoder(functools.partial(VectorEncoder, config.model.width, config.model.input_dropout))


def _sequence(config):
  return Encoder(functools.partial(SequenceEncoder, config.model.width, config.model.input_dropout))


def _set(config):
  m = config.model
  return Encoder(functools.partial(SetEncoder, m.width, m.input_dropout, m.pooling))


def _text(config):
  t = config.text
  bert.require(t.model)
  architecture = bert.read_architecture(t.model)
  read = functools.partial(bert.Bert, architecture, bert.attend, t.dropout, t.checkpoint)
  make = functools.partial(TextEncoder, read, t.pooling, _set(config).make)
  params = functools.partial(bert.read_params, t.model, architecture)
  return Encoder(make, (Pretrained(("bert",), params, t.learning_rate),))


def _series(config):
  m = config.model
  if config.encoders.series == "transformer":
    return Encoder(functools.partial(series.TransformerEncoder, m.width, m.input_dropout, m.heads))
  return Encoder(functools.partial(series.RecurrentEncoder, m.width, m.input_dropout,
                                   config.encoders.series))


def _image(config):
  view = vision.View(**{key: tuple(value) if isinstance(value, (list, tuple)) else value
                        for key, value in config.vision.items() if key != "width"})
  return Encoder(functools.partial(vision.ImageEncoder, config.model.width, config.encoders.image,
                                   config.vision.width, view))


# a key of data.cohort.KINDS -> (config) -> Encoder
ENCODERS = {"vector": _vector, "sequence": _sequence, "set": _set, "text": _text,
            "series": _series, "image": _image}


def of_kind(spec, model, *kinds):
  """The modalities of the record.Spec whose kind is one of `kinds`, in its order. Raises ValueError
  of a line where there is none for `model`, a name."""
  if found := tuple(m for m in spec.modalities if spec.kind(m) in kinds):
    return found
  there = ", ".join(f"{m} ({spec.kind(m)})" for m in spec.modalities)
  raise ValueError(f"model '{model}' reads a modality of the kind {' or '.join(kinds)}, and the "
                   f"cohort has none: {there}.")


def tokens(makers, modalities, inputs, observed_M, noise):
  """The M tokens (D,) of one row, by the modules of build(). To be called in a module's
  @nn.compact."""
  # before anything else: unobserved content, NaN too, is gone
  return [make(name=f"encode_{name}")(jnp.where(observed_M[m], inputs[name], 0), noise)
          for m, (make, name) in enumerate(zip(makers, modalities))]


def build(config, spec):
  """The encoders of a model whose modules are named encode_<modality>.

  Args:
    config: the whole tree.
    spec: models.record.Spec.
  Returns:
    (per modality (name=) -> module, tuple of Pretrained with paths in the model's parameters,
    modality -> an example of one row's input).
  Raises:
    FileNotFoundError, ValueError: a text encoder's folder, see bert.require().
  """
  kinds = {m: spec.kind(m) for m in spec.modalities}
  chosen = {m: ENCODERS[kind](config) for m, kind in kinds.items()}
  pretrained = tuple(dataclasses.replace(part, path=(f"encode_{m}", *part.path))
                     for m, encoder in chosen.items() for part in encoder.pretrained)
  example = {m: jnp.zeros(spec.shapes[m], KINDS[kind][1]) for m, kind in kinds.items()}
  return tuple(encoder.make for encoder in chosen.values()), pretrained, example
