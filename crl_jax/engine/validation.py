"""What early stopping looks at: log-loss and AUROC of one member's validation rows, on the
device."""

import jax
import jax.numpy as jnp


def log_loss(y, p, known):
  """() mean log-loss of probabilities p (V,) where `known` (V,); NaN where nothing is."""
  p = jnp.clip(p, 1e-7, 1 - 1e-7)
  each = -jnp.where(y > 0.5, jnp.log(p), jnp.log1p(-p))
  return jnp.where(known, each, 0.0).sum() / known.sum()


def auroc(y, p, known):
  """() area under the ROC curve of p (V,) where `known` (V,), ties counting half; NaN without both
  classes."""
  p = jnp.where(known, p, jnp.inf)   # unknown rows come last and have no weight
  order = jnp.argsort(p)
  p, positive, negative = p[order], (known & (y > 0.5))[order], (known & (y < 0.5))[order]
  below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(negative.astype(jnp.float32))])
  first, last = jnp.searchsorted(p, p, side="left"), jnp.searchsorted(p, p, side="right")
  wins = jnp.where(positive, (below[first] + below[last]) / 2, 0.0)
  pairs = positive.sum().astype(jnp.float32) * negative.sum().astype(jnp.float32)
  return wins.sum() / pairs


def score(probabilities, labels, monitor):
  """Validation scalars and the one that early stopping maximises.

  Args:
    probabilities, labels: (V, T), labels NaN where undefined.
    monitor: "loss" or "auroc".
  Returns:
    (scalars, score): `loss` () the log-loss averaged over the tasks that have labels, `auroc` (T,);
    the score is -loss or the mean AUROC over the tasks where it is defined, -inf where there is
    none.
  """
  known = ~jnp.isnan(labels)
  over_tasks = lambda f: jax.vmap(f, in_axes=1)(labels, probabilities, known)
  loss, areas = jnp.nanmean(over_tasks(log_loss)), over_tasks(auroc)
  value = -loss if monitor == "loss" else jnp.nanmean(areas)
  return dict(loss=loss, auroc=areas), jnp.where(jnp.isnan(value), -jnp.inf, value)
