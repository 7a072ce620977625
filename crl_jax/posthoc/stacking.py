"""The stack: one predictor out of several, by non-negative weights that sum to 1 and may be 0.

    p = sum_j w_j p_j

Weights have the largest posterior on rows that no part was trained on (a stacked mixture; Smyth and
Wolpert 1999), around equal ones: an average is hard to beat where outcomes are few (Timmermann
2006), and where they are many the prior is nothing.
"""

import numpy as np

from crl_jax.posthoc import logits

SD = 0.3        # of a weight around 1 / J, before any outcome was seen
_LEAST = 1e-3   # a weight below it is none


def weights(y, p_NxJ):
  """(J,) weights of the parts.

  Args:
    y: (N,) in {0, 1}.
    p_NxJ: probabilities by J predictors that were not trained on these rows.
  """
  from scipy import optimize
  parts = p_NxJ.shape[1]
  equal = np.full(parts, 1 / parts)
  if parts == 1 or not len(y):
    return equal
  p = np.clip(p_NxJ, logits.EDGE, 1 - logits.EDGE)
  likelihood_NxJ = np.where(y[:, None] == 1, p, 1 - p)

  def objective(w):
    mixed = np.maximum(likelihood_NxJ @ w, logits.EDGE)
    away = w - equal
    return (-np.log(mixed).mean() + away @ away / (2 * SD**2 * len(y)),
            -(likelihood_NxJ / mixed[:, None]).mean(0) + away / (SD**2 * len(y)))
  w = optimize.minimize(
      objective, equal, jac=True, method="SLSQP", bounds=[(0, 1)] * parts,
      constraints=dict(type="eq", fun=lambda w: w.sum() - 1, jac=np.ones_like),
      options=dict(ftol=1e-12, maxiter=200)).x
  w = np.where(w < _LEAST, 0.0, w)
  return w / w.sum()


def mix(p_NxJ, w):
  """(N,) probabilities of the stack."""
  return p_NxJ @ w
