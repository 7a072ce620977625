"""chartevents and labevents of the simulated patients, in blocks of rows of any number.

A value is the item's mean plus its spread times a mix of what latent health says (the first
modality's loadings), of the last day before a death, and of noise. How often something is measured
is the clinicians' choice: the sicker, the more often; the rarer tests only for some.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crl_jax.data.mimic.simulated import csv_gz, items, people as people_lib

CHART_HEADER = ("subject_id", "hadm_id", "stay_id", "caregiver_id", "charttime", "storetime",
                "itemid", "value", "valuenum", "valueuom", "warning")
LAB_HEADER = ("labevent_id", "subject_id", "hadm_id", "specimen_id", "itemid", "order_provider_id",
              "charttime", "storetime", "value", "valuenum", "valueuom", "ref_range_lower",
              "ref_range_upper", "flag", "priority", "comments")
_ROWS = 200_000      # about so many rows in a block
_STRIDE = 4_000_000  # labevent_id of one block; more than a block ever holds


def chart_blocks(people, seed, density):
  """Functions that make the blocks of chartevents, `density` times as many rows as the items'
  intervals say."""
  panel = _Panel(people, [*items.CHARTS, *_words()], np.ones(len(people.stay)))
  spans = people.icu_in, people.icu_out
  return _blocks(people, people.icu_owner, spans, panel, 3, seed, density, _chart_columns)


def lab_blocks(people, seed, density):
  """Functions that make the blocks of labevents, see chart_blocks()."""
  in_icu = np.isin(np.arange(len(people.owner)), people.icu_owner)
  panel = _Panel(people, items.LABS, np.where(in_icu, 1.6, 0.8))
  # some were taken in the two days before, in the emergency department or the clinic
  spans = people.admit - 2 * people_lib.DAY, people.discharge
  return _blocks(people, np.arange(len(people.owner)), spans, panel, 4, seed, density, _lab_columns)


class _Panel:
  """The items of one table with what their values and intervals depend on."""

  def __init__(self, people, chosen, factor):
    """factor: (owners,) how much more often than usual."""
    loading = people.world.loadings[0]
    loading = loading[np.arange(len(chosen)) % len(loading)]
    loading = loading / np.linalg.norm(loading, axis=1, keepdims=True)
    self.z = (people.u @ loading.T).astype(np.float32)                     # (P, I)
    self.toward = np.sign(loading @ people.world.direction[0, 2]).astype(np.float32)
    severity = people.severity()
    self.pace = np.exp(0.25 * severity)                                    # (P,)
    every = np.array([item.every for item in chosen], np.float32)
    # a rare test is ordered for those who look as if they needed it
    rare = every >= 40
    wants = severity[:, None] * 0.8 + people.u[:, :1] * 0.6
    self.ordered = ~rare | (wants + self.z * 0.3 > 0.4)                    # (P, I)
    self.every = every
    self.factor = factor
    column = lambda name, kind: np.array([getattr(item, name) for item in chosen], kind)
    self.id = column("id", np.int64)
    self.mean, self.sd = column("mean", np.float64), column("sd", np.float64)
    self.log = column("shape", "U1") == "l"
    self.words = column("shape", "U1") == "w"
    self.scale = 10.0 ** column("digits", np.int64)
    self.low = np.array([np.nan if i.low is None else i.low for i in chosen], float)
    self.high = np.array([np.nan if i.high is None else i.high for i in chosen], float)
    self.units = [item.unit for item in chosen]


def _words():
  """The items whose value is a word, as `Item`s of shape "w"; mean is the number of words."""
  out = []
  for (number, label, short, category, every), words in {**items.SCORES, **items.WORDS}.items():
    out.append(items.Item(number, label, short, category, None, "w", len(words), 0.0, 0, every,
                          None, None))
  return out


def _blocks(people, admission, spans, panel, table, seed, density, columns):
  """Yields one function per block of owners (stays or admissions), about _ROWS rows each."""
  hours = (spans[1] - spans[0]) / people_lib.HOUR
  patient = people.owner[admission]
  expected = hours * panel.pace[patient] * panel.factor * density
  expected *= (panel.ordered[patient] / panel.every).sum(1)
  part = (np.cumsum(expected) // _ROWS).astype(np.int64)
  edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(admission)]
  for block, (lo, hi) in enumerate(zip(edges[:-1], edges[1:])):
    if hi > lo:
      yield lambda block=block, lo=lo, hi=hi: columns(
          people, panel, lo, hi, block,
          *_events(people, admission, spans, panel, density, np.arange(lo, hi),
                   np.random.default_rng([table, seed, block])))


def _events(people, admission, spans, panel, density, owners, rng):
  """(rng, owner, item, time, score) of the events of `owners`, in order of owner and time.

  score: standardised value without the item's scale.
  """
  patient = people.owner[admission[owners]]
  start, length = spans[0][owners], np.maximum(spans[1][owners] - spans[0][owners], 60)
  mean = (length / people_lib.HOUR * panel.pace[patient] * panel.factor[owners] * density)[:, None]
  counts = rng.poisson(mean * panel.ordered[patient] / panel.every)
  flat = np.repeat(np.arange(counts.size, dtype=np.int32), counts.ravel())
  which, item = np.divmod(flat, np.int32(len(panel.every)))
  minutes = (rng.random(len(flat), np.float32) * (length[which] // 60)).astype(np.int64)
  order = np.argsort((which.astype(np.int64) << 32) + minutes, kind="stable")
  which, item, minutes = which[order], item[order], minutes[order]
  time = start[which] // 60 * 60 + minutes * 60
  death = people.death[admission[owners]][which]
  # the last day before a death: worse and worse
  near = np.where(death >= 0, np.clip(1 - (death - time) / people_lib.DAY, 0, 1), 0)
  score = (0.8 * panel.z[patient[which], item] + 1.2 * near.astype(np.float32) * panel.toward[item]
           + 0.6 * rng.standard_normal(len(item), np.float32))
  return rng, owners[which], item, time, score


def _numbers(panel, item, score, rng):
  """Values in the item's unit with a few sentinels and slips of the finger among them."""
  scaled = panel.sd[item] * score
  value = np.where(panel.log[item], panel.mean[item] * np.exp(scaled), panel.mean[item] + scaled)
  digits = panel.scale[item]
  value = np.maximum(np.round(value * digits) / digits, 0)
  odd = rng.integers(0, 1 << 14, len(value), np.uint16)
  value[odd == 0] = 999999
  value[odd == 1] = 0
  value[odd == 2] *= 10
  return np.round(value * digits) / digits


def _chart_columns(people, panel, lo, hi, block, rng, owner, item, time, score):
  del lo, hi, block
  worded = panel.words[item]
  value = _numbers(panel, item, score, rng)
  words = [w for group in (items.SCORES, items.WORDS) for w in group.values()]
  vocabulary, first = [w for group in words for w in group], len(items.CHARTS)
  base = np.zeros(len(panel.id), np.int64)
  base[first:] = np.cumsum([0, *(len(group) for group in words)])[:-1]
  # the word's place grows with the score: the sicker, the lower the GCS
  sign = np.where(panel.toward[item] < 0, 1, -1)
  place = np.clip(np.floor(panel.mean[item] * (0.75 + 0.2 * sign * score)), 0,
                  panel.mean[item] - 1).astype(np.int64)
  text = csv_gz.pick(vocabulary, np.where(worded, base[item] + place, -1))
  scored = worded & (item < first + len(items.SCORES))
  number = np.where(worded, np.where(scored, place + 1.0, np.nan), value)
  value = pc.if_else(pa.array(worded), text, pc.cast(pa.array(value), pa.string()))
  units = list(dict.fromkeys(u for u in panel.units if u))
  unit = np.array([units.index(u) if u else -1 for u in panel.units])
  late = rng.integers(1, 90, len(item)) * 60
  return (people.subject[people.owner[people.icu_owner[owner]]],
          people.hadm[people.icu_owner[owner]], people.stay[owner],
          10_000 + people.stay[owner] % 17_000, _time(time), _time(time + late), panel.id[item],
          value, number, csv_gz.pick(units, unit[item]),
          (rng.integers(0, 64, len(item), np.uint8) == 0).astype(np.int8))


def _lab_columns(people, panel, lo, hi, block, rng, owner, item, time, score):
  del lo, hi
  value = _numbers(panel, item, score, rng)
  # before admission: not linked to it, as a third of all laboratory values
  outside = time < people.admit[owner]
  lost = rng.integers(0, 512, len(item), np.uint16)   # 0: blanked by de-identification
  text = pc.cast(pa.array(value), pa.string())
  text = pc.if_else(pa.array(lost == 0), "___", text)
  number = np.where(lost == 0, np.nan, value)
  abnormal = (value < panel.low[item]) | (value > panel.high[item])
  units = list(dict.fromkeys(u for u in panel.units if u))
  unit = np.array([units.index(u) if u else -1 for u in panel.units])
  comment = np.where(lost == 0, 0, np.where((panel.id[item] == 50931) & (lost < 400), 1,
                                            np.where(lost == 3, 2, -1)))
  late = rng.integers(20, 240, len(item)) * 60
  stored = _time(time + late)
  stored[lost == 5] = np.datetime64("NaT")
  return (block * _STRIDE + np.arange(len(item)) + 1, people.subject[people.owner[owner]],
          csv_gz.whole(people.hadm[owner], ~outside),
          people.hadm[owner] + time // 3600 % 10_000_000, panel.id[item],
          csv_gz.ids("P", np.where(outside, 36**3, 36**3 + people.hadm[owner] % 5000), 5),
          _time(time), stored, text, number, csv_gz.pick(units, unit[item]), panel.low[item],
          panel.high[item], csv_gz.pick(("abnormal",), np.where(abnormal, 0, -1)),
          csv_gz.pick(("ROUTINE", "STAT"), rng.integers(0, 2, len(item))),
          csv_gz.pick(items.LAB_COMMENTS, comment))


def _time(seconds):
  return seconds.astype("datetime64[s]")
