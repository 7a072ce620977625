"""Units: conversions against textbooks' factors; a number is plausible in one unit only."""

import numpy as np
import pytest

from crl_jax.data import units
from crl_jax.data.eicu import features as eicu
from crl_jax.data.mimic import items as mimic


@pytest.mark.parametrize("unit, signal, number, of, value", [
    ("mg/dL", "creatinine", 88.4, "µmol/L", 1.0), ("mg/dL", "glucose", 5.55, "mmol/L", 100),
    ("mg/dL", "bun", 3.57, "mmol/L", 10), ("mg/dL", "calcium", 2.5, "mmol/L", 10.02),
    ("mg/dL", "calcium", 5, "mEq/L", 10.02), ("mg/dL", "bilirubin", 17.1, "umol/L", 1),
    ("mEq/L", "sodium", 140, "mmol/L", 140), ("mEq/L", "anion_gap", 12, "mmol / L", 12),
    ("mg/L", "crp", 1.2, "MG/DL", 12), ("g/dL", "hemoglobin", 105, "g/L", 10.5),
    ("K/uL", "wbc", 7.2, "10^9/L", 7.2), ("K/uL", "platelets", 250, "K/mcL", 250),
    ("K/uL", "wbc", 7200, "#/uL", 7.2), ("m/uL", "rbc", 4.5, "10^12/L", 4.5),
    ("ng/mL", "troponin_t", 14, "ng/L", 0.014), ("uIU/mL", "tsh", 2, "mIU/L", 2),
    ("IU/L", "alt", 40, "Units/L", 40), ("IU/L", "alt", 1, "µkat/L", 60),
    ("mmHg", "po2", 12, "kPa", 90.007), ("mmHg", "po2", 90, "mm Hg", 90),
    ("s", "pt", 12, "sec", 12), ("%", "hba1c", 48, "mmol/mol", 6.543), ("C", "", 98.6, "°F", 37),
    ("cm", "", 66, "Inch", 167.64),
    ("kg", "", 176, "lbs.", 79.832), ("mL", "", 1, "L", 1000), ("mg", "", 0.4, "grams", 400),
    ("mg", "", 30, "mcg", 0.03), ("/min", "", 80, "bpm", 80),
    ("mmol/L", "lactate", 18, "mg/dL", 2.02), ("mOsm/kg", "", 290, "mOsm/kg", 290),
    ("L/min", "", 5, "lpm", 5)])
def test_conversions_are_those_of_textbooks(unit, signal, number, of, value):
  factor, offset = units.conversions(unit, signal)[units.written(of)]
  assert number * factor + offset == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("unit, signal, of", [
    ("mg", "", "ml"), ("mg", "", "dose"), ("mg/dL", "fibrinogen", "mmol/L"), ("mL", "", "mg"),
    ("%", "neutrophils", "K/uL"), ("mEq/L", "sodium", "mEq"), ("mmHg", "po2", "%")])
def test_what_nothing_converts_is_no_unit_of_it(unit, signal, of):
  assert units.written(of) not in units.conversions(unit, signal)


def test_a_number_is_plausible_in_one_unit_only():
  found = [(n, s.unit, s.low, s.high, s.other, s.filed) for n, s in mimic.SIGNALS.items()]
  for s in eicu.SOURCES:
    if isinstance(s, eicu.Signals):
      found += [(n, g.unit, g.low, g.high, g.other, {}) for n, g in s.signals.items()]
    elif isinstance(s, eicu.Values):
      found += [(n, unit, *s.columns[n][1:], other, {}) for n, (unit, other) in s.other.items()]
  checked = 0
  for name, unit, low, high, other, filed in found:
    if unit:
      assert units.conversions(unit, name)[units.written(unit)] == (1, 0), name
    spans = []
    for u in {unit, *filed.values()} if other else ():     # the range as numbers of each unit
      factor, offset = units.convert(unit, u, name)
      spans += [sorted(((low - offset) / factor, (high - offset) / factor))]
    for u, (least, most) in other.items():
      factor, offset = units.convert(unit, u, name)
      assert low <= least * factor + offset and most * factor + offset <= high, (name, u)
      near = [s for s in spans if not np.allclose(s, [(low - offset) / factor,
                                                      (high - offset) / factor])]
      assert all(most <= s[0] or least >= s[1] for s in near), (name, u)
      checked += 1
  assert checked > 20
