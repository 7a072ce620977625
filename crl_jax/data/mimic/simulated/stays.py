"""Tables about patients and their stays: who, when, where, and what they were billed for.

Quirks kept from the database: ages above 89 are 91; dod is a date, also of deaths in hospital; the
"discharge" row of transfers has neither unit nor end; a few stays end before they begin by their
times, as mimic-code#1691 reports; codes have no dot and are of two versions.
"""

import numpy as np
import pyarrow as pa

from crl_jax.data.mimic.simulated import csv_gz, items, people as people_lib

_TYPES = ("EW EMER.", "OBSERVATION ADMIT", "URGENT", "SURGICAL SAME DAY ADMISSION", "DIRECT EMER.",
          "ELECTIVE")
_FROM = ("EMERGENCY ROOM", "PHYSICIAN REFERRAL", "TRANSFER FROM HOSPITAL", "CLINIC REFERRAL",
         "WALK-IN/SELF REFERRAL")
_TO = ("HOME", "HOME HEALTH CARE", "SKILLED NURSING FACILITY", "REHAB", "HOSPICE",
       "CHRONIC/LONG TERM ACUTE CARE", "DIED")
_INSURANCE = ("Medicare", "Private", "Medicaid", "Other")
_LANGUAGE = ("English", "Spanish", "Russian", "Chinese")
_MARITAL = ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED")
_RACE = ("WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN", "UNKNOWN",
         "OTHER")
_GROUPS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019", "2020 - 2022")
_SERVICES = ("MED", "CMED", "SURG", "NMED", "CSURG", "NSURG", "TRAUM")


def tables(people):
  """table -> (folder, header, owners, columns): columns(rng, lo, hi) makes the rows of the owners
  lo to hi; a dictionary has one owner."""
  patients, admissions, stays = len(people.subject), len(people.owner), len(people.stay)
  part = lambda columns: lambda rng, lo, hi: columns(people, rng, np.arange(lo, hi))
  return {
      "patients": ("hosp", "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
                   patients, part(_patients)),
      "admissions": ("hosp", "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,"
                     "admit_provider_id,admission_location,discharge_location,insurance,language,"
                     "marital_status,race,edregtime,edouttime,hospital_expire_flag",
                     admissions, part(_admissions)),
      "transfers": ("hosp", "subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime",
                    admissions, part(_transfers)),
      "services": ("hosp", "subject_id,hadm_id,transfertime,prev_service,curr_service", admissions,
                   part(_services)),
      "diagnoses_icd": ("hosp", "subject_id,hadm_id,seq_num,icd_code,icd_version", admissions,
                        part(_diagnoses)),
      "procedures_icd": ("hosp", "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
                         admissions, part(_procedures)),
      "drgcodes": ("hosp", "subject_id,hadm_id,drg_type,drg_code,description,drg_severity,"
                   "drg_mortality", admissions, part(_drgs)),
      "icustays": ("icu", "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,"
                   "los", stays, part(_icustays)),
      "d_icd_diagnoses": ("hosp", "icd_code,icd_version,long_title", 1,
                          lambda rng, lo, hi: _titles(items.DIAGNOSES)),
      "d_icd_procedures": ("hosp", "icd_code,icd_version,long_title", 1,
                           lambda rng, lo, hi: _titles(items.PROCEDURE_CODES)),
      "d_labitems": ("hosp", "itemid,label,fluid,category", 1, lambda rng, lo, hi: _labitems()),
      "d_items": ("icu", "itemid,label,abbreviation,linksto,category,unitname,param_type,"
                  "lownormalvalue,highnormalvalue", 1, lambda rng, lo, hi: _items()),
  }


def visits(people):
  """As tables(): what was measured outside the hospital."""
  return {"omr": ("hosp", "subject_id,chartdate,seq_num,result_name,result_value",
                  len(people.subject),
                  lambda rng, lo, hi: _visits(people, rng, np.arange(lo, hi)))}


def in_emergency(people, admission):
  """Whether the admissions came through the emergency department; fixed by their ids."""
  return people.hadm[admission] % 20 < 11


def service(people, admission):
  """(n,) place in _SERVICES."""
  return people.hadm[admission] // 7 % 13 % len(_SERVICES)


def service_name(people, admission):
  return _SERVICES[int(service(people, admission))]


def _patients(people, rng, rows):
  index = people.index[rows]
  first = np.searchsorted(people.owner, rows)
  year = lambda seconds: seconds.astype("M8[s]").astype("M8[Y]").astype(np.int64) + 1970
  anchor = year(people.admit[first])
  age = people.age[rows] - (year(people.admit[index]) - anchor)
  dead = np.where(people.death[index] >= 0, people.death[index], people.died[rows])
  day = np.where(dead >= 0, dead.astype("M8[s]").astype("M8[D]"), np.datetime64("NaT"))
  return (people.subject[rows], csv_gz.pick("FM", people.male[rows].astype(int)),
          np.where(age > 89, 91, np.maximum(age, 18)), anchor,
          csv_gz.pick(_GROUPS, rng.integers(0, len(_GROUPS), len(rows))), day)


def _visits(people, rng, rows):
  names = "Blood Pressure", "Weight (Lbs)", "BMI (kg/m2)"
  patient = np.repeat(rows, rng.poisson(1.5, len(rows)))
  n = len(patient)
  before = rng.integers(1, 500, n)
  day = (people.admit[people.index[patient]] // people_lib.DAY - before).astype("M8[D]")
  u = people.u[patient]
  bmi = np.clip(28 + 4 * u[:, 0] + rng.normal(size=n), 15, 60)
  pounds = bmi * (1.7 + 0.1 * (patient % 2)) ** 2 / 0.45359237
  systolic = np.clip(128 + 12 * u[:, 1] + 8 * rng.normal(size=n), 80, 220)
  values = [[f"{s:.0f}/{s * 0.6:.0f}", f"{p:.1f}", f"{b:.1f}"]
            for s, p, b in zip(systolic, pounds, bmi)]
  each = lambda x: np.repeat(x, len(names))
  return (each(people.subject[patient]), each(day), np.ones(n * len(names), int),
          csv_gz.pick(names, np.tile(np.arange(len(names)), n)),
          pa.array(sum(values, []), pa.string()))


def _admissions(people, rng, rows):
  n = len(rows)
  emergency = in_emergency(people, rows)
  dead = people.death[rows] >= 0
  owner = people.owner[rows]
  draw = lambda p: rng.choice(len(p), n, p=p)
  kind = np.where(emergency, 0, 1 + draw([0.3, 0.35, 0.15, 0.1, 0.1]))
  kind[people.kind[rows] == people_lib.LATER] %= 3
  to = np.where(dead, 6, draw([0.35, 0.28, 0.2, 0.08, 0.03, 0.06]))
  arrival = people.admit[rows] - rng.integers(1, 10, n) * people_lib.HOUR
  blank = np.datetime64("NaT")
  time = _time(people.discharge[rows])
  slip = rng.random(n) < 0.001
  time[slip] = _time(people.admit[rows][slip] - 600)
  return (people.subject[owner], people.hadm[rows], _time(people.admit[rows]), time,
          np.where(dead, _time(people.death[rows]), blank), csv_gz.pick(_TYPES, kind),
          csv_gz.ids("P", 36**4 + people.hadm[rows] % 3000, 5),
          csv_gz.pick(_FROM, np.where(emergency, 0, 1 + draw([0.4, 0.4, 0.1, 0.1]))),
          csv_gz.pick(_TO, np.where(~dead & (rng.random(n) < 0.05), -1, to)),
          csv_gz.pick(_INSURANCE, np.where(people.age[owner] >= 65, 0, 1 + draw([0.5, 0.3, 0.2]))),
          csv_gz.pick(_LANGUAGE, people.subject[owner] % 29 % 11 // 8),
          csv_gz.pick(_MARITAL, np.where(rng.random(n) < 0.06, -1, people.subject[owner] % 4)),
          csv_gz.pick(_RACE, people.subject[owner] % 17 % 11 % len(_RACE)),
          np.where(emergency, _time(arrival), blank),
          np.where(emergency, _time(people.admit[rows] + 3600), blank), dead.astype(int))


def _transfers(people, rng, rows):
  stays = np.flatnonzero((people.icu_owner >= rows[0]) & (people.icu_owner <= rows[-1]))
  of = people.icu_owner[stays]
  again = np.append(of[1:] == of[:-1], False)   # the next ICU stay is of the same admission
  first = np.full(len(rows), -1)
  first[of[::-1] - rows[0]] = stays[::-1]
  begin = np.where(first >= 0, people.icu_in[first], people.discharge[rows])
  until = np.where(again, np.roll(people.icu_in[stays], -1), people.discharge[of])
  emergency = np.flatnonzero(in_emergency(people, rows))
  after = np.flatnonzero(until - people.icu_out[stays] >= people_lib.HOUR)
  ward = people.hadm % len(items.WARDS)
  none = np.full(len(rows), -1)
  e, a, i, w, d = (
      (rows[emergency], "ED", -2 + 0 * emergency, people.admit[rows[emergency]] - 4 * 3600,
       people.admit[rows[emergency]]),
      (rows, "admit", ward[rows], people.admit[rows], begin),
      (of, "transfer", 100 + unit(people, stays), people.icu_in[stays], people.icu_out[stays]),
      (of[after], "transfer", ward[of[after]], people.icu_out[stays][after], until[after]),
      (rows, "discharge", none, people.discharge[rows], none))
  join = lambda place: np.concatenate([part[place] for part in (e, a, i, w, d)])
  names = ("ED", "admit", "transfer", "discharge")
  admission, where, start, end = join(0), join(2), join(3), join(4)
  event = np.concatenate([np.full(len(p[0]), names.index(p[1])) for p in (e, a, i, w, d)])
  vocabulary = [*items.WARDS, *items.UNITS, "Emergency Department"]
  code = np.where(where >= 100, where - 100 + len(items.WARDS), where)
  code = np.where(where == -2, len(vocabulary) - 1, code)
  order = rng.permutation(len(admission))
  order = order[np.argsort(people.owner[admission[order]], kind="stable")]
  take = lambda x: x[order]
  return (people.subject[people.owner[take(admission)]], people.hadm[take(admission)],
          30_000_000 + rows[0] * 8 + np.arange(len(order)),   # at most 7 an admission
          csv_gz.pick(names, take(event)), csv_gz.pick(vocabulary, take(code)), _time(take(start)),
          np.where(take(end) < 0, np.datetime64("NaT"), _time(take(end))))


def unit(people, stays):
  """(n,) place in items.UNITS of ICU stays."""
  return people.stay[stays] % 97 % len(items.UNITS)


def _services(people, rng, rows):
  moves = rows[rng.random(len(rows)) < 0.15]
  admission = np.concatenate([rows, moves])
  before = np.concatenate([np.full(len(rows), -1), service(people, moves)])
  now = np.concatenate([service(people, rows), (service(people, moves) + 1) % len(_SERVICES)])
  late = rng.random(len(moves)) * (people.discharge[moves] - people.admit[moves])
  time = np.concatenate([people.admit[rows] + 60, people.admit[moves] + late.astype(np.int64)])
  order = np.argsort(admission, kind="stable")
  return (people.subject[people.owner[admission[order]]], people.hadm[admission[order]],
          _time(time[order]), csv_gz.pick(_SERVICES, before[order]),
          csv_gz.pick(_SERVICES, now[order]))


def _coded(people, rng, rows, codes):
  """(admission, code, place in the bill) of codes drawn by share and latent health."""
  version = np.array([9, 10])[people.subject[people.owner[rows]] % 2]
  k = people.u.shape[1]
  lean = people.u[people.owner[rows]][:, np.arange(len(codes)) % k] * 0.5
  share = np.array([c[3] for c in codes])
  p = 1 / (1 + np.exp(-(np.log(share * 1.6 / (1 - share)) + lean)))
  has = (rng.random(p.shape) < p) & (np.array([c[1] for c in codes]) == version[:, None])
  which, code = np.nonzero(has)
  first = np.searchsorted(which, np.arange(len(rows)))
  return rows[which], code, np.arange(len(which)) - first[which] + 1


def _diagnoses(people, rng, rows):
  admission, code, place = _coded(people, rng, rows, items.DIAGNOSES)
  return (people.subject[people.owner[admission]], people.hadm[admission], place,
          csv_gz.pick([c[0] for c in items.DIAGNOSES], code),
          np.array([c[1] for c in items.DIAGNOSES])[code])


def _procedures(people, rng, rows):
  admission, code, place = _coded(people, rng, rows, items.PROCEDURE_CODES)
  length = people.discharge[admission] - people.admit[admission]
  time = people.admit[admission] + (rng.random(len(admission)) * length).astype(np.int64)
  return (people.subject[people.owner[admission]], people.hadm[admission], place,
          _time(time).astype("M8[D]"), csv_gz.pick([c[0] for c in items.PROCEDURE_CODES], code),
          np.array([c[1] for c in items.PROCEDURE_CODES])[code])


def _drgs(people, rng, rows):
  """Assigned after discharge and told by the outcome: a trap for who takes them as an input."""
  dead = people.death[rows] >= 0
  level = np.where(dead, 4, rng.integers(1, 4, len(rows)))
  return (people.subject[people.owner[rows]], people.hadm[rows],
          csv_gz.pick(("APR",), np.zeros(len(rows), int)), 100 + rng.integers(0, 800, len(rows)),
          csv_gz.pick(("RESPIRATORY SYSTEM DIAGNOSIS", "SEPTICEMIA & DISSEMINATED INFECTIONS",
                       "HEART FAILURE"), rng.integers(0, 3, len(rows))), level, level)


def _icustays(people, rng, rows):
  admission = people.icu_owner[rows]
  here = unit(people, rows)
  there = np.where(rng.random(len(rows)) < 0.05, (here + 1) % len(items.UNITS), here)
  return (people.subject[people.owner[admission]], people.hadm[admission], people.stay[rows],
          csv_gz.pick(items.UNITS, here), csv_gz.pick(items.UNITS, there),
          _time(people.icu_in[rows]), _time(people.icu_out[rows]),
          (people.icu_out[rows] - people.icu_in[rows]) / people_lib.DAY)


def _titles(codes):
  return (csv_gz.text([c[0] for c in codes]), np.array([c[1] for c in codes]),
          csv_gz.text([c[2] for c in codes]))


def _labitems():
  return (np.array([i.id for i in items.LABS]), csv_gz.text([i.label for i in items.LABS]),
          csv_gz.text(["Blood"] * len(items.LABS)), csv_gz.text([i.category for i in items.LABS]))


def _items():
  rows = [(i.id, i.label, i.short, "chartevents", i.category, i.unit, "Numeric", i.low, i.high)
          for i in items.CHARTS]
  rows += [(n, label, short, "chartevents", category, None, "Text", None, None)
           for n, label, short, category, _ in (*items.SCORES, *items.WORDS)]
  for table, group in (("inputevents", items.INPUTS), ("outputevents", items.OUTPUTS),
                       ("procedureevents", items.PROCEDURES)):
    kind = {"inputevents": "Solution", "outputevents": "Numeric", "procedureevents": "Processes"}
    rows += [(g[0], g[1], g[1], table, g[2], g[3], kind[table], None, None) for g in group]
  number = lambda values: np.array([np.nan if v is None else v for v in values], float)
  columns = list(zip(*rows))
  return (np.array(columns[0]), *(csv_gz.text(c) for c in columns[1:7]), number(columns[7]),
          number(columns[8]))


def _time(seconds):
  return seconds.astype("datetime64[s]")
