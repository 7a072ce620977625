"""Tables of what was ordered and done: drugs, infusions, outputs, procedures and cultures.

Quirks kept from the database: a culture's result is stored days after it was taken; some
prescriptions have no start or end before they begin, some are entered hours after their start;
amounts are now and then rewritten.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crl_jax.data.mimic.simulated import csv_gz, items, people as people_lib


def tables(people):
  """table -> (folder, header, owners, columns), see stays.tables()."""
  admissions, stays = len(people.owner), len(people.stay)
  part = lambda columns: lambda rng, lo, hi: columns(people, rng, np.arange(lo, hi))
  return {
      "prescriptions": (
          "hosp", "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,starttime,"
          "stoptime,drug_type,drug,formulary_drug_cd,gsn,ndc,prod_strength,form_rx,dose_val_rx,"
          "dose_unit_rx,form_val_disp,form_unit_disp,doses_per_24_hrs,route", admissions,
          part(_prescriptions)),
      "emar": ("hosp", "subject_id,hadm_id,emar_id,emar_seq,poe_id,pharmacy_id,enter_provider_id,"
               "charttime,medication,event_txt,scheduletime,storetime", admissions, part(_emar)),
      "microbiologyevents": (
          "hosp", "microevent_id,subject_id,hadm_id,micro_specimen_id,order_provider_id,chartdate,"
          "charttime,spec_itemid,spec_type_desc,test_seq,storedate,storetime,test_itemid,test_name,"
          "org_itemid,org_name,isolate_num,quantity,ab_itemid,ab_name,dilution_text,"
          "dilution_comparison,dilution_value,interpretation,comments", admissions,
          part(_cultures)),
      "inputevents": (
          "icu", "subject_id,hadm_id,stay_id,caregiver_id,starttime,endtime,storetime,itemid,"
          "amount,amountuom,rate,rateuom,orderid,linkorderid,ordercategoryname,"
          "secondaryordercategoryname,ordercomponenttypedescription,ordercategorydescription,"
          "patientweight,totalamount,totalamountuom,isopenbag,continueinnextdept,"
          "statusdescription,originalamount,originalrate", stays, part(_inputs)),
      "outputevents": ("icu", "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,"
                       "value,valueuom", stays, part(_outputs)),
      "procedureevents": (
          "icu", "subject_id,hadm_id,stay_id,caregiver_id,starttime,endtime,storetime,itemid,value,"
          "valueuom,location,locationcategory,orderid,linkorderid,ordercategoryname,"
          "ordercategorydescription,patientweight,isopenbag,continueinnextdept,statusdescription,"
          "originalamount,originalrate", stays, part(_procedures)),
      "pharmacy": (     # with the draws of prescriptions
          "hosp", "subject_id,hadm_id,pharmacy_id,poe_id,starttime,stoptime,medication,proc_type,"
          "status,entertime,verifiedtime,route,frequency,disp_sched,infusion_type,sliding_scale,"
          "lockout_interval,basal_rate,one_hr_max,doses_per_24_hrs,duration,duration_interval,"
          "expiration_value,expiration_unit,expirationdate,dispensation,fill_quantity", admissions,
          part(_pharmacy)),
  }


def _given(people, rng, owners, admission, group, start, end, hours):
  """(owner, item, time) in order of owner and time: the items of `group` whose last entry is their
  share, each about every `hours` for those who get it (None: once)."""
  share = np.array([g[-1] for g in group])
  severity = people.severity()[people.owner[admission]]
  lean = people.u[people.owner[admission]][:, np.arange(len(group)) % people.u.shape[1]]
  p = share / (share + (1 - share) * np.exp(-0.5 * lean - 0.3 * severity[:, None]))
  gets = rng.random(p.shape) < p
  length = np.maximum(end - start, 60)
  counts = gets.astype(int) if hours is None else rng.poisson(
      gets * length[:, None] / people_lib.HOUR / hours)
  flat = np.repeat(np.arange(counts.size), counts.ravel())
  which, item = np.divmod(flat, len(group))
  time = start[which] + (rng.random(len(which)) * length[which]).astype(np.int64) // 60 * 60
  order = np.lexsort((time, which))
  return owners[which[order]], item[order], time[order]


def _ordered(people, rng, rows):
  return _given(people, rng, rows, rows, items.DRUGS, people.admit[rows], people.discharge[rows],
                None)


def _pharmacy_id(people, admission, drug):
  return people.hadm[admission] * len(items.DRUGS) + drug


def _pharmacy(people, rng, rows):
  admission, drug, start = _ordered(people, rng, rows)
  n, late = len(admission), rng.random(len(admission)) < 0.08     # as often as in the demo
  entered = start + np.where(late, rng.integers(1, 720, n), -rng.integers(0, 240, n)) * 60
  blank, nothing = csv_gz.pick((), np.full(n, -1)), np.full(n, np.nan)
  word = lambda w: csv_gz.pick((w,), np.zeros(n, int))
  subject = people.subject[people.owner[admission]]
  return (subject, people.hadm[admission], _pharmacy_id(people, admission, drug),
          _dash(subject, _nth(admission)), _time(start), _time(people.discharge[admission]),
          csv_gz.pick([d[0] for d in items.DRUGS], drug), word("Unit Dose"),
          word("Discontinued via patient discharge"), _time(entered), _time(entered + 300),
          csv_gz.pick([d[4] for d in items.DRUGS], drug), word("DAILY"), blank, blank, blank, blank,
          nothing, blank, nothing, nothing, blank, nothing, blank, blank, blank, blank)


def _prescriptions(people, rng, rows):
  admission, drug, start = _ordered(people, rng, rows)
  n = len(admission)
  stop = np.minimum(start + rng.integers(6, 96, n) * people_lib.HOUR, people.discharge[admission])
  begin, finish = _time(start), _time(stop)
  slip = rng.random(n)
  finish[slip < 0.01] = begin[slip < 0.01] - np.timedelta64(3600)
  begin[slip > 0.997] = np.datetime64("NaT")
  name = lambda place: csv_gz.pick([d[place] for d in items.DRUGS], drug)
  blank, nth = csv_gz.pick((), np.full(n, -1)), _nth(admission)
  subject = people.subject[people.owner[admission]]
  return (subject, people.hadm[admission], _pharmacy_id(people, admission, drug),
          _dash(subject, nth), nth, csv_gz.ids("P", 36**4 + people.hadm[admission] % 3000, 5),
          begin, finish,
          csv_gz.pick(("MAIN",), np.zeros(n, int)), name(0), name(1), blank, np.zeros(n, int),
          blank, blank, name(2), name(3), np.ones(n, int), csv_gz.pick(("TAB",), np.zeros(n, int)),
          np.where(slip < 0.2, np.nan, 2.0), name(4))


def _emar(people, rng, rows):
  admission, drug, time = _given(people, rng, rows, rows, items.DRUGS, people.admit[rows],
                                 people.discharge[rows], 14.0)
  n, nth = len(admission), _nth(admission)
  subject = people.subject[people.owner[admission]]
  event = csv_gz.pick(("Administered", "Not Given", "Flushed", "Delayed Administered"),
                      rng.choice([0, 1, 2, 3, -1], n, p=[0.84, 0.06, 0.05, 0.04, 0.01]))
  return (subject, people.hadm[admission], _dash(subject, people.hadm[admission] * 1000 + nth), nth,
          _dash(subject, nth), csv_gz.whole(_pharmacy_id(people, admission, drug), drug % 5 != 4),
          csv_gz.pick((), np.full(n, -1)), _time(time),
          csv_gz.pick([d[0] for d in items.DRUGS], drug), event,
          _time(time - rng.integers(0, 60, n) * 60), _time(time + 60))


def _cultures(people, rng, rows):
  admission, culture, time = _given(people, rng, rows, rows, items.CULTURES, people.admit[rows],
                                    people.discharge[rows], None)
  n = len(admission)
  column = lambda place: np.array([c[place] for c in items.CULTURES])[culture]
  words = lambda place: csv_gz.pick([c[place] for c in items.CULTURES], culture)
  organism = [c[4] for c in items.CULTURES]
  grown = np.array([o is not None for o in organism])[culture]
  number = np.array([o[0] if o else 0 for o in organism])[culture]
  names = csv_gz.pick([o[1] if o else "" for o in organism], np.where(grown, culture, -1))
  stored = time + rng.integers(24, 96, n) * people_lib.HOUR
  day = lambda seconds: _time(seconds // people_lib.DAY * people_lib.DAY)
  blank = csv_gz.pick((), np.full(n, -1))
  timed = rng.random(n) < 0.97   # the others have a date alone
  return (rows[0] * 16 + np.arange(n) + 1, people.subject[people.owner[admission]],
          people.hadm[admission], people.hadm[admission] % 9_000_000 + culture, blank, day(time),
          np.where(timed, _time(time), np.datetime64("NaT")), column(0), words(1), np.ones(n, int),
          day(stored), _time(stored), column(2), words(3), csv_gz.whole(number, grown), names,
          csv_gz.whole(grown.astype(int), grown), blank, blank, blank, blank, blank, blank, blank,
          csv_gz.pick(("NO GROWTH.  ", "___."), np.where(grown, -1, rng.integers(0, 5, n) // 4)))


def _inputs(people, rng, rows):
  stay, item, time = _given(people, rng, rows, people.icu_owner[rows], items.INPUTS,
                            people.icu_in[rows], people.icu_out[rows], 5.0)
  n = len(stay)
  long = rng.integers(1, 300, n) * 60
  amount = _amounts(items.INPUTS, item, rng)
  rate = np.where(item < 5, np.round(amount / (long / 3600), 4), np.nan)
  units = lambda extra="": csv_gz.pick([g[3] + extra for g in items.INPUTS], item)
  word = lambda w: csv_gz.pick((w,), np.zeros(n, int))
  weight = np.round(60 + people.stay[stay] % 60 + 0.5, 1)
  return (*_who(people, stay), _time(time), _time(time + long), _time(time + 120),
          np.array([g[0] for g in items.INPUTS])[item], amount, units(), rate, units("/hour"),
          people.stay[stay] % 9_000_000 + item, people.stay[stay] % 9_000_000,
          csv_gz.pick([g[2] for g in items.INPUTS], item), csv_gz.pick((), np.full(n, -1)),
          word("Main order parameter"), word("Continuous Med"), weight, np.round(amount * 2, 3),
          word("ml"), np.zeros(n, int), np.zeros(n, int),
          csv_gz.pick(("FinishedRunning", "ChangeDose/Rate", "Rewritten", "Stopped"),
                      rng.choice(4, n, p=[0.6, 0.3, 0.02, 0.08])), amount, rate)


def _outputs(people, rng, rows):
  stay, item, time = _given(people, rng, rows, people.icu_owner[rows], items.OUTPUTS,
                            people.icu_in[rows], people.icu_out[rows], 3.0)
  n = len(stay)
  return (*_who(people, stay), _time(time), _time(time + 300),
          np.array([g[0] for g in items.OUTPUTS])[item],
          np.round(_amounts(items.OUTPUTS, item, rng)), csv_gz.pick(("ml",), np.zeros(n, int)))


def _procedures(people, rng, rows):
  stay, item, time = _given(people, rng, rows, people.icu_owner[rows], items.PROCEDURES,
                            people.icu_in[rows], people.icu_out[rows], None)
  n = len(stay)
  minutes = np.maximum(np.round(_amounts(items.PROCEDURES, item, rng)), 1)
  end = np.minimum(time + minutes.astype(np.int64) * 60, people.icu_out[stay])
  minutes = np.where(item == len(items.PROCEDURES) - 1, 1, (end - time) // 60)
  blank, word = csv_gz.pick((), np.full(n, -1)), lambda w: csv_gz.pick((w,), np.zeros(n, int))
  order = people.stay[stay] % 9_000_000 + item
  return (*_who(people, stay), _time(time), _time(end), _time(end + 60),
          np.array([g[0] for g in items.PROCEDURES])[item], minutes,
          csv_gz.pick([g[3] or "" for g in items.PROCEDURES], item), blank, blank, order, order,
          csv_gz.pick([g[2] for g in items.PROCEDURES], item), word("ContinuousProcess"),
          np.round(60 + people.stay[stay] % 60 + 0.5, 1), np.ones(n, int), np.zeros(n, int),
          word("FinishedRunning"), minutes, np.zeros(n, int))


def _amounts(group, item, rng):
  median = np.array([g[4] for g in group])[item]
  spread = np.array([g[5] for g in group])[item]
  return np.round(median * np.exp(spread * rng.standard_normal(len(item))), 3)


def _who(people, stay):
  admission = people.icu_owner[stay]
  return (people.subject[people.owner[admission]], people.hadm[admission], people.stay[stay],
          10_000 + people.stay[stay] % 17_000)


def _nth(owner):
  """1, 2, ... within each run of equal owners."""
  first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1])) if len(owner) else owner
  return np.arange(len(owner)) - np.repeat(first, np.diff(np.append(first, len(owner)))) + 1


def _dash(left, right):
  return pc.binary_join_element_wise(*(pc.cast(pa.array(x), pa.string()) for x in (left, right)),
                                     "-")


def _time(seconds):
  return seconds.astype("datetime64[s]")
