"""The simulated patients: latent health, hospital stays, ICU stays and outcomes.

Latent health U, the clinicians' policy and the risks of the outcomes are those of data/simulate.py
(`World`). A patient has an index hospital stay with an ICU stay, stays before it without one, and
after it what the outcomes say: a readmission within 30 days, an ICU stay within 90 days, or death
in the index stay. Times are seconds since 1970 in the shifted calendar of MIMIC-IV (2110 to 2200).
"""

import dataclasses

import numpy as np

from crl_jax.data import cohort as cohort_lib, simulate

DAY, HOUR = 86400, 3600
EARLIER, INDEX, LATER = range(3)   # kinds of admissions


@dataclasses.dataclass(frozen=True)
class People:
  """P patients in the order of subject_id, and their A admissions in order of patient and time.

  Attributes:
    world: simulate.World.
    subject: (P,) int64 subject_id, ascending.
    u: (P, k) float32 latent health.
    observed: (P, 4) bool: structured, image, discharge, radiology; the clinicians' choice.
    risk: (P, 3) float32 probabilities of readmission, icu, mortality.
    outcome: (P, 3) float32 in {0, 1, NaN}: what happened; NaN where death in hospital precludes it.
    eligible: (P,) bool: one ICU stay in the index admission; the others have two there or none.
    male, age: (P,) at the index admission; age in years.
    died: (P,) seconds of death outside the hospital, -1 where there is none on record.
    owner: (A,) patient of the admission.
    kind: (A,) EARLIER, INDEX or LATER.
    hadm: (A,) int64 hadm_id.
    admit, discharge: (A,) seconds.
    death: (A,) seconds of death in hospital, -1 where there is none.
    icu_owner: (S,) admission of an ICU stay.
    stay: (S,) int64 stay_id.
    icu_in, icu_out: (S,) seconds.
  """
  world: simulate.World
  subject: np.ndarray
  u: np.ndarray
  observed: np.ndarray
  risk: np.ndarray
  outcome: np.ndarray
  eligible: np.ndarray
  male: np.ndarray
  age: np.ndarray
  died: np.ndarray
  owner: np.ndarray
  kind: np.ndarray
  hadm: np.ndarray
  admit: np.ndarray
  discharge: np.ndarray
  death: np.ndarray
  icu_owner: np.ndarray
  stay: np.ndarray
  icu_in: np.ndarray
  icu_out: np.ndarray

  @property
  def index(self):
    """(P,) the index admission of each patient."""
    return np.flatnonzero(self.kind == INDEX)

  def severity(self):
    """(P,) float32 with mean 0 and variance 1: the direction in which the risk of death grows."""
    return self.u @ self.world.direction[0, 2]


def draw(config, patients, seed):
  """Draws `patients` patients of the world of `config` (`data.simulate`) from `seed`."""
  world = simulate.make_world(config)
  rng = np.random.default_rng([2, seed])
  n = int(patients)
  u = rng.standard_normal((n, config.latent), np.float32)
  observed = simulate.draw_observed(world, rng, u)
  risk = simulate.probability(world, u, cohort_lib.pattern_id(observed)).astype(np.float32)
  happens = rng.random(risk.shape) < risk
  dies = happens[:, 2]
  outcome = happens.astype(np.float32)
  outcome[dies, :2] = np.nan
  severity = u @ world.direction[0, 2]

  subject = 10_000_000 + _unique(rng, n, 10_000_000)
  subject.sort()
  kind_of_stay = rng.choice(3, n, p=[0.92, 0.05, 0.03])   # one ICU stay, two, none
  icu_hours = np.exp(rng.normal(3.9, 0.7, n) + 0.15 * severity)
  before = np.where(rng.random(n) < 0.7, rng.exponential(4, n), rng.exponential(40, n))
  after = np.exp(rng.normal(4.0, 0.8, n))
  after[dies & (rng.random(n) < 0.7)] = 0   # most die in the ICU
  start = _seconds(2110, rng.integers(0, 90 * 365, n), rng.integers(0, DAY, n))
  stay_in = start + (before * HOUR).astype(np.int64)
  stay_out = stay_in + (icu_hours * HOUR).astype(np.int64)
  end = stay_out + (after * HOUR).astype(np.int64)

  counts = rng.poisson(np.exp(-0.6 + 0.25 * severity))
  earlier = _earlier(rng, start, np.minimum(counts, 8))
  later, later_icu = _later(rng, end, outcome)
  owner = np.concatenate([earlier[0], np.arange(n), later[0]])
  kind = np.repeat([EARLIER, INDEX, LATER], [len(earlier[0]), n, len(later[0])])
  admit = np.concatenate([earlier[1], start, later[1]])
  discharge = np.concatenate([earlier[2], end, later[2]])
  with_icu = np.concatenate([np.zeros(len(earlier[0]), bool), kind_of_stay != 2, later_icu])
  order = np.lexsort((admit, owner))
  place = np.empty(len(order), np.int64)
  place[order] = np.arange(len(order))
  index = place[len(earlier[0]):len(earlier[0]) + n]
  owner, kind, admit, discharge, with_icu = (
      a[order] for a in (owner, kind, admit, discharge, with_icu))
  death = np.full(len(owner), -1)
  death[index[dies]] = discharge[index[dies]] - rng.integers(0, 10, dies.sum()) * 60

  # ICU stays: of the index admission, a second one of some, and those of later admissions
  others = np.flatnonzero(with_icu & (kind == LATER))
  first = kind_of_stay != 2
  twice = (kind_of_stay == 1) & (end - stay_out > 20 * HOUR)
  icu_owner = np.concatenate([index[first], index[twice], others])
  icu_in = np.concatenate([stay_in[first], stay_out[twice] + 6 * HOUR, admit[others] + 2 * HOUR])
  icu_out = np.concatenate([stay_out[first], stay_out[twice] + 18 * HOUR,
                            (admit[others] + discharge[others]) // 2 + 2 * HOUR])
  icu_out = np.minimum(icu_out, discharge[icu_owner])
  order = np.lexsort((icu_in, icu_owner))
  gone = ~dies & (rng.random(n) < 0.12)
  last = np.zeros(n, np.int64)
  np.maximum.at(last, owner, discharge)
  died = np.where(gone, last + rng.integers(2, 365, n) * DAY, -1)
  return People(
      world=world, subject=subject, u=u, observed=observed, risk=risk, outcome=outcome,
      eligible=first & ~twice, male=rng.random(n) < 0.56,
      age=np.clip(rng.normal(64, 17, n) + 3 * severity, 18, 97).astype(int), died=died,
      owner=owner, kind=kind, hadm=20_000_000 + _unique(rng, len(owner), 10_000_000), admit=admit,
      discharge=discharge, death=death, icu_owner=icu_owner[order],
      stay=30_000_000 + _unique(rng, len(order), 10_000_000), icu_in=icu_in[order],
      icu_out=icu_out[order])


def _earlier(rng, start, counts):
  """(owner, admit, discharge) of `counts` stays before `start`, one after another, back in time."""
  owner = np.repeat(np.arange(len(counts)), counts)
  gap = rng.integers(25, 500, len(owner)) * DAY
  length = np.exp(rng.normal(4.2, 0.7, len(owner))).astype(np.int64) * HOUR
  back = np.cumsum(gap + length)
  back -= np.repeat(np.concatenate([[0], back])[np.cumsum(counts) - counts], counts)
  admit = start[owner] - back
  return owner, admit, admit + length


def _later(rng, end, outcome):
  """((owner, admit, discharge), whether it holds an ICU stay) of the stays after `end`."""
  again, icu = outcome[:, 0] == 1, outcome[:, 1] == 1
  calm = (outcome[:, 0] == 0) & (outcome[:, 1] == 0) & (rng.random(len(end)) < 0.3)
  days = np.where(again, rng.uniform(0.5, 29, len(end)),
                  np.where(icu, rng.uniform(31, 88, len(end)), rng.uniform(100, 400, len(end))))
  owner = np.flatnonzero(again | icu | calm)
  admit = end[owner] + (days[owner] * DAY).astype(np.int64)
  length = (np.exp(rng.normal(4.2, 0.6, len(owner))) * HOUR).astype(np.int64) + 6 * HOUR
  holds = icu[owner] | (calm[owner] & (rng.random(len(owner)) < 0.2))
  return (owner, admit, admit + length), holds


def _seconds(year, days, seconds):
  """int64 seconds since 1970, whole minutes."""
  zero = np.datetime64(f"{year}-01-01", "s").astype(np.int64)
  return (zero + days.astype(np.int64) * DAY + seconds) // 60 * 60


def _unique(rng, n, below):
  """(n,) different integers in [0, below) in random order."""
  if n > below // 2:
    raise cohort_lib.CohortError(f"{n:,} ids do not fit MIMIC's eight digits; ask for fewer "
                                 "patients.")
  return rng.choice(below, n, replace=False).astype(np.int64)
