"""Probabilities on the scale of their log-odds, and the penalised fits there."""

import numpy as np

EDGE = 1e-4              # probabilities are kept this far from 0 and 1 before their logit
STEPS, STILL = 30, 1e-8  # of Newton's method at most; the change that ends it


def of(p):
  """Log-odds of probabilities, EDGE from 0 and 1 at least."""
  p = np.clip(p, EDGE, 1 - EDGE)
  return np.log(p) - np.log1p(-p)


def sigmoid(x):
  """Probabilities of log-odds."""
  return 0.5 + 0.5 * np.tanh(0.5 * x)


def log_loss(y, logit):
  """(N,) log-losses of outcomes y in {0, 1} under log-odds."""
  return np.logaddexp(0, np.where(y == 1, -logit, logit))


def newton(y, offset, design, sd):
  """(Q,) weights with the largest posterior: prior N(0, sd^2) each.

  Args:
    y: (N,) in {0, 1}; offset: (N,) log-odds; design: (N, Q); sd: (Q,).
  """
  weight = np.zeros(design.shape[1])
  for _ in range(STEPS):
    p = sigmoid(offset + design @ weight)
    slope = design.T @ (y - p) - weight / sd**2
    curve = (design * (p * (1 - p))[:, None]).T @ design + np.diag(1 / sd**2)
    step = np.clip(np.linalg.solve(curve, slope), -1, 1)
    weight = weight + step
    if np.abs(step).max() < STILL:
      break
  return weight
