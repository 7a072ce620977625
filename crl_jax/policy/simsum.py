"""A simulated doctor's office whose every effect is known exactly: our own generator on the
network, probabilities and causal overlay of SimSUM (facts in data/resources/simsum_network.json).

A patient has a season, a background and a clinician, perhaps a respiratory disease, five symptoms,
a note that tells of some of them, a treatment and an outcome (lower is better). Annotators read the
symptoms from the note; who treats sees them all. Three worlds make notes or annotations missing not
at random:

    "A"  whether there is a note depends on symptoms and clinician, and changes the outcome
    "B"  annotations are recorded more often where a symptom is, and the clinician acts on records
    "C"  recorded as in B, but the clinician acts on the symptoms themselves
"""

import functools
import importlib.resources
import itertools
import json
import re
import zlib

import numpy as np

from crl_jax.data.cohort import Cohort, CohortError
from crl_jax.policy import phrases
from crl_jax.policy.data import PolicyCohort

SYMPTOMS = ("dysp", "cough", "pain", "nasal")
FEVER = ("fever_none", "fever_low", "fever_high")
TABULAR = ("self_empl", "asthma", "smoking", "COPD", "winter", "hay_fever")
RECORDED = (*SYMPTOMS, "fever")   # what an annotation is recorded of, or not
WORLDS = ("", "A", "B", "C")
WORDS = 1024   # columns that words and pairs of words are counted in
NOISE = 0.8    # standard deviation of the outcome
_EDGE = 0.05   # the least that e and 1 - e are


@functools.cache
def network():
  """The facts: names, probabilities, overlays, exact values of all of them."""
  path = importlib.resources.files("crl_jax.data") / "resources/simsum_network.json"
  return json.loads(path.read_text())


def draw(rows, seed, world=""):
  """Column name -> (rows,) int: the network's variables, one uniform each in the JSON's order; then
  what a world draws, treatment `T` and outcome `Y`, of the overlay."""
  rng = np.random.default_rng([7, seed])
  columns = {}
  for name in network()["order"]:
    columns[name] = _quantile(rng.random(rows), _probabilities(name, columns))
  for name, p in _recorded(columns, world).items():
    columns[name] = (rng.random(rows) < p).astype(int)
  truth = overlay(columns, world)
  columns["T"] = (rng.random(rows) < truth["e"]).astype(int)
  mean = np.where(columns["T"], truth["mu1"], truth["mu0"])
  columns["Y"] = mean + NOISE * rng.standard_normal(rows)
  return columns


def enumerate_cells(world=""):
  """(columns, (cells,) probability) of all that the network's binary variables and the fever can
  be, with what `world` draws; treatments and outcomes are not drawn."""
  names = network()["order"][:-2]   # the overlay replaces treatment and outcome
  cells = np.array(list(itertools.product(*(range(3 if name == "fever" else 2)
                                            for name in names))))
  columns, p = dict(zip(names, cells.T)), np.ones(len(cells))
  for name in names:
    p *= _probabilities(name, columns)[np.arange(len(cells)), columns[name]]
  for name, chance in _recorded(columns, world).items():
    chance, value = np.tile(chance, len(p) // len(chance)), np.repeat([0, 1], len(p))
    columns = {key: np.tile(x, 2) for key, x in columns.items()} | {name: value}
    p = np.concatenate([p * (1 - chance), p * chance])
  return columns, p


def overlay(columns, world=""):
  """mu0, mu1 and e (N,) of the rows `columns`, as `world` has them."""
  facts = network()["causal_overlay_arno"]
  mu0, tau = (_polynomial(facts[key], columns) for key in ("M0", "cate"))
  seen, extra = columns, 0.0
  if world == "A":
    mu0 = mu0 + network()["mmnar_worlds"]["A_pattern_is_a_confounder"]["direct_effect_on_M0"] * (
        columns["note"])
  if world == "B":   # a symptom counts where it was recorded, and so does that it was
    seen = columns | {name: columns[name] * columns[f"R_{name}"] for name in RECORDED}
    extra = (1.5 * columns["R_dysp"] + columns["R_cough"] + columns["R_fever"] - 1.2)
  e = np.clip(_sigmoid(_polynomial(facts["logit_e"], seen) + extra), _EDGE, 1 - _EDGE)
  return {"mu0": mu0, "mu1": mu0 + tau, "e": e}


def original(columns):
  """P(antibiotics) and the mean days at home without and with them (N,), of the network itself."""
  rates = network()["days_at_home_poisson_log_mean"]
  p = _probabilities("antibiotics", columns)[:, 1]
  days = (np.exp(_polynomial(_constant(rates[f"antibiotics={t}"]), columns)) for t in (0, 1))
  return p, *days


def make(rows, seed, world="", style=None, truth="overlay"):
  """The PolicyCohort of so many patients.

  Args:
    world: one of WORLDS.
    style: phrases.Style of the notes; another one keeps treatments and outcomes.
    truth: "overlay", or "network" for its own antibiotics and days at home (in no world).
  Raises:
    CohortError: an unknown or impossible combination.
  """
  if world not in WORLDS or truth not in ("overlay", "network") or (world and truth != "overlay"):
    raise CohortError(f"simsum has the worlds {WORLDS} and the truths 'overlay' and, outside of "
                      f"worlds, 'network'; not world '{world}' with truth '{truth}'.")
  columns = draw(rows, seed, world)
  effects = overlay(columns, world)
  treatment, outcome, kind = columns["T"], columns["Y"], "continuous"
  if truth == "network":
    e, mu0, mu1 = original(columns)
    effects = {"mu0": mu0, "mu1": mu1, "e": e}
    treatment, outcome, kind = columns["antibiotics"], columns["days_at_home"], "count"
  texts = phrases.write(columns, network()["text"], seed, style or phrases.Style())
  exists = columns["note"].astype(bool) if world == "A" else np.ones(rows, bool)
  note = count_words(texts) * exists[:, None]
  tabular = np.stack([columns[name] for name in TABULAR], 1).astype(np.float32)
  ids = np.arange(rows, dtype=np.int64)
  cohort = Cohort(
      modalities=("tabular", "note"), tasks=("outcome",),
      inputs={"tabular": tabular, "note": note},
      observed=np.stack([np.ones(rows, bool), exists], 1),
      labels=np.full((rows, 1), np.nan, np.float32), row_id=ids, patient_id=ids.copy(),
      groups={"winter": np.where(columns["winter"], "winter", "summer")},
      features={"tabular": list(TABULAR), "note": [f"word_{j}" for j in range(WORDS)]},
      info={"banner": "SIMULATED PATIENTS: nothing here is about real ones."})
  return PolicyCohort(
      cohort, treatment.astype(np.float32), outcome.astype(np.float32),
      np.concatenate([_annotations(columns, world), tabular], 1), np.ones(rows, bool),
      (*SYMPTOMS, *FEVER, *TABULAR), ("tabular",), kind,
      truth={name: x.astype(np.float64) for name, x in effects.items()},
      info={"time_zero": "the end of the consultation, simulated", "treatment": "antibiotics",
            "outcome": "days at home" if truth == "network" else "a simulated severity afterwards"})


def count_words(texts):
  """(N, WORDS) float32: log(1 + count) of a text's words and pairs of words that follow each other,
  each in the column of its CRC."""
  column = functools.cache(lambda word: zlib.crc32(word.encode()) % WORDS)
  counts = np.zeros((len(texts), WORDS), np.float32)
  for row, text in zip(counts, texts):
    words = re.findall(r"[a-z0-9.]+", text.lower())
    at = [column(w) for w in words] + [column(f"{a} {b}") for a, b in zip(words, words[1:])]
    row += np.bincount(at, minlength=WORDS)
  return np.log1p(counts)


def _annotations(columns, world):
  """(N, 7) float32 symptoms and the fever's three levels, NaN where a world did not record them."""
  x = np.stack([columns[name] for name in SYMPTOMS] + [columns["fever"] == v for v in range(3)],
               1).astype(np.float32)
  if world in ("B", "C"):
    recorded = np.stack([columns[f"R_{name}"] for name in (*SYMPTOMS, *["fever"] * 3)], 1)
    x[recorded == 0] = np.nan
  return x


def _recorded(columns, world):
  """Name -> (N,) probability of what a world draws besides: the note of A, the records of B, C."""
  worlds = network()["mmnar_worlds"]
  if world == "A":
    return {"note": _sigmoid(_polynomial(worlds["A_pattern_is_a_confounder"]["logit_P_delta"],
                                         columns))}
  if world in ("B", "C"):
    rates = {key.split()[0]: rates for key, rates in worlds["B_unconfounded_despite_missingness"][
        "P(R=1|present),P(R=1|absent)"].items()}
    return {f"R_{name}": np.where(columns[name] > 0, *rates[name]) for name in RECORDED}
  return {}


def _probabilities(name, columns):
  """(N, K) probabilities of the K values of a variable given those in `columns`; of days at home
  up to a count that nobody passes."""
  facts = network()
  if name in facts["roots_p_yes"]:
    p = facts["roots_p_yes"][name]
    n = len(next(iter(columns.values()))) if columns else 1
    return np.tile([1 - p, p], (n, 1))
  if name in facts["noisy_or"]:
    rule = facts["noisy_or"][name]
    none = (1 - rule["leak"]) * np.prod([(1 - p) ** columns[parent]
                                         for parent, p in rule["parents"].items()], 0)
    return np.stack([none, 1 - none], 1)
  if name == "antibiotics":
    p = _sigmoid(_polynomial(_constant(facts["antibiotics_logit"]), columns))
    return np.stack([1 - p, p], 1)
  if name == "days_at_home":
    from scipy import stats
    _, *days = original(columns)
    return stats.poisson.pmf(np.arange(60), np.where(columns["antibiotics"], *days[::-1])[:, None])
  table = facts["cpt"][name]
  rows = table.get("p") or {key: [1 - p, p] for key, p in table["p_yes"].items()}
  at = sum(columns[parent] << i for i, parent in enumerate(reversed(table["parents"])))
  return np.array([rows[key] for key in sorted(rows)])[at]   # keys are binary numbers


def _quantile(u, probabilities):
  """(N,) the first value whose cumulative probability exceeds u; a binary one is 1 where u < p."""
  if probabilities.shape[1] == 2:
    return (u < probabilities[:, 1]).astype(int)
  return (u[:, None] >= np.cumsum(probabilities, 1)[:, :-1]).sum(1)


def _constant(coefficients):
  return {"1" if name == "bias" else name: value for name, value in coefficients.items()}


def _polynomial(coefficients, columns):
  """(N,) sum of coefficients times products ('dysp*fever_high') of columns; '1' is one."""
  value = {"1": 1, "fever_low": columns["fever"] == 1, "fever_high": columns["fever"] == 2}
  factor = lambda name: np.asarray(value[name] if name in value else columns[name], np.float64)
  return sum(c * np.prod([factor(name) for name in term.split("*")], 0)
             for term, c in coefficients.items())


def _sigmoid(x):
  return 0.5 + 0.5 * np.tanh(0.5 * x)

