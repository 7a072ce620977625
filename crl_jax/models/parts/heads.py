"""From a row's representation to the tasks: classifiers, their focal losses, and the probabilities
that these stand for."""

import flax.linen as nn
import jax.numpy as jnp

from crl_jax.config import task_losses
from crl_jax.models.parts import losses
from crl_jax.models.parts.noise import dropout


class Head(nn.Module):
  """A task's classifier: (D,) -> logit."""
  hidden: int
  width: int

  @nn.compact
  def __call__(self, h, noise):
    for _ in range(self.hidden):
      h = dropout(nn.relu(nn.Dense(self.width)(h)), noise)
    return nn.Dense(1)(h)[0]


def logits(h, tasks, deeper, noise):
  """(T,) logits of the representation h (D,), by a Head for each of `tasks`, one layer deeper for
  those in `deeper`. To be called in a module's @nn.compact."""
  return shared(tasks, deeper, h.shape[0])(h, noise)


def shared(tasks, deeper, width):
  """The function (h (width,), noise) -> (T,) of logits(), for several representations of a row."""
  made = [Head(1 + (t in deeper), width, name=f"head_{t}") for t in tasks]
  return lambda h, noise: jnp.stack([head(h, noise) for head in made])


def having(batch, m):
  """The Batch with the labels of those rows alone that have modality `m`, an index."""
  return batch.replace(labels=jnp.where(batch.observed[:, m:m + 1], batch.labels, jnp.nan))


def prediction(config, tasks):
  """What the logits of a Model cost and mean.

  Args:
    config: the whole tree; config.loss.tasks is read.
    tasks: the T names.
  Returns:
    loss: (logits (B, T), batch) -> (losses.Term, column weights), the term "prediction".
    probability: (logits (..., T)) -> P(y = 1).
  """
  alpha, gamma, weight = (jnp.array(v) for v in task_losses(config, tasks))

  def loss(logits, batch):
    labels = jnp.where(batch.valid[:, None], batch.labels, jnp.nan)
    return losses.focal(logits, labels, alpha, gamma), weight

  def probability(logits):
    return losses.focal_probability(logits, alpha, gamma)

  return loss, probability
