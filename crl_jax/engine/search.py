"""Which of a rival's tries, and how far along its path: by the log-loss of held-out training
patients. Every rival is searched alike: its tries, on the same rows and folds."""

import numpy as np

INNER = 3                  # folds of the training patients
ROWS, EVENTS = 1500, 100   # rows that tries are compared on, at least, and of the rarer outcome
_RISE = 1e-4               # of the mean log-loss: noise of the fits, not the end of a path


def choose(rival, x, y, patient, seed):
  """The settings of a rival.

  Tries are compared by cross-validation. Where there are many rows, one fold of evenly spread ones
  is held out instead, and how far to follow the path of the best is then asked of all rows, again
  with one fold held out: more rows bear more trees.

  Args:
    rival: rivals.Rival.
    x: (n, F) training rows.
    y: (n,) in {0, 1}.
    patient: (n,) ids; a patient's rows are held out together.
    seed: int.
  Returns:
    dict of settings for rival.at(); its first try, not chosen, where a class is too rare to divide.
  """
  usual = {**rival.tries[0], **rival.usual}
  fold = deal(y, patient, seed)
  some = _spread(y)
  for rows in (slice(None), some):
    if not _dividable(y[rows], fold[rows]):
      return usual
  few = len(some) == len(y)
  found = [_follow(rival, x[some], y[some], fold[some], range(INNER if few else 1), tried, seed)
           for tried in rival.tries]
  best = min(range(len(found)), key=lambda i: found[i][1])
  if few or not rival.usual:
    return found[best][0]
  return _follow(rival, x, y, fold, range(1), rival.tries[best], seed)[0]


def deal(y, patient, seed):
  """(n,) folds of 0 to INNER - 1; a patient is in one, and patients with the outcome are spread."""
  patients, index = np.unique(patient, return_inverse=True)
  ever = np.bincount(index, y) > 0
  order = np.lexsort((np.random.default_rng([4, seed]).permutation(len(patients)), ever))
  fold = np.empty(len(patients), np.int64)
  fold[order] = np.arange(len(patients)) % INNER
  return fold[index]


def _dividable(y, fold):
  """Whether both classes are there without any of the folds."""
  return all(len(np.unique(y[fold != k])) == 2 and (fold == k).any() for k in range(INNER))


def _spread(y):
  """Evenly spread rows of either class, as many of each as the rate says."""
  most = int(max(ROWS, EVENTS / min(y.mean(), 1 - y.mean())))
  order = np.argsort(y, kind="stable")
  return np.sort(order[np.linspace(0, len(y) - 1, min(most, len(y))).astype(np.int64)])


def _follow(rival, x, y, fold, held, tried, seed):
  """(settings, mean log-loss of the folds `held`) of the best point of a try's path."""
  paths = [rival.path(x[fold != k], y[fold != k], tried, seed) for k in held]
  best, lowest = None, np.inf
  for points in zip(*paths):
    losses = [log_losses(y[fold == k], predict(x[fold == k]))
              for k, (_, predict) in zip(held, points)]
    loss = np.concatenate(losses).mean()
    spared = lowest - loss
    if spared > 0:
      best, lowest = {**tried, **points[0][0]}, loss
    if spared < (rival.worth or -_RISE):
      break
  return best, lowest


def log_losses(y, p):
  """(n,) of outcomes y in {0, 1} and probabilities p, which are kept 1e-6 from 0 and 1."""
  p = np.clip(np.asarray(p, np.float64), 1e-6, 1 - 1e-6)
  return -np.where(y == 1, np.log(p), np.log1p(-p))
