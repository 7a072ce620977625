"""Units of measurement: how they are written, what one is in another, and which numbers can only be
of another unit than the one they are filed under.

Sources of the factors: the SI prefixes; inch, pound and ounce by the agreement of 1959; mmHg
133.322387415 Pa and cmH2O 98.0665 Pa; 1 ukat = 60 IU/min; molar masses from IUPAC's standard atomic
weights (phosphate as phosphorus, urea as its nitrogen, haemoglobin per haem group); HbA1c by the
master equation of the IFCC and NGSP (% = 0.09148 mmol/mol + 2.152).
"""

import fractions
import functools

from crl_jax.data.cohort import CohortError

# dimension -> size in its base unit -> how it is written, in lower case, without blanks and dots
_WHOLE = {
    "pressure": {"1": "mmhg mm/hg torr", "0.73555924": "cmh2o cmsh2o", "7.50061683": "kpa"},
    "rate": {"1": "/min bpm beats/min beat/min insp/min breaths/min breath/min br/min rpm "
                  "/minute 1/min permin"},
    "time": {"1": "s sec secs second seconds", "60": "min mins minute minutes"},
    "length": {"1": "cm cms centimeter centimeters", "0.1": "mm", "100": "m meter meters",
               "2.54": "in inch inches", "30.48": "ft foot feet"},
    "share": {"1": "% percent pct", "100": "fraction l/l"}}
_MASS = {"1000": "kg kgs kilogram kilograms kilo kilos", "1": "g gm gms gram grams",
         "0.001": "mg mgs milligram milligrams",
         "1e-6": "ug mcg µg μg mcgs microgram micrograms", "1e-9": "ng nanogram nanograms",
         "1e-12": "pg picogram picograms", "453.59237": "lb lbs pound pounds",
         "28.349523125": "oz ounce ounces"}
_VOLUME = {"1": "l liter liters litre litres lit", "0.1": "dl 100ml",
           "0.001": "ml mls cc ccs milliliter milliliters millilitre",
           "1e-6": "ul mcl µl μl cmm cumm mm3 mm^3 mm³", "1e-15": "fl"}
_PARTS = {
    "mass": _MASS, "volume": _VOLUME,
    "amount": {"1": "mol", "0.001": "mmol mmole mmoles", "1e-6": "umol mcmol µmol μmol",
               "1e-9": "nmol", "1e-12": "pmol"},
    "charge": {"1": "eq", "0.001": "meq meqs"},
    "activity": {"1000": "kiu ku", "1": "iu u unit units intunit intunits",
                 "0.001": "miu mu munit munits", "1e-6": "uiu uu mciu mcu µiu μiu µu μu uunit",
                 "60": "ukat µkat μkat"},
    "osmoles": {"0.001": "mosm mosmol mos"},
    "count": {"1": "# cell cells", "1000": "k th thou thousand 10³ x10³ 10^3 x10^3 10*3 x10*3 "
              "10e3 x10e3 10x3 x10(3) 10(3) x1000 1000",
              "1e6": "m mil mill million 10^6 x10^6 10*6 x10*6 10e6 x10e6 10x6 10(6)",
              "1e9": "10^9 x10^9 10*9 x10*9 10e9 x10e9 bill",
              "1e12": "10^12 x10^12 10*12 x10*12 10e12 x10e12"}}
_BELOW = {"volume": _VOLUME, "mass of water": {"1": "kg kgh2o"},
          "minute": {"1": "min minute", "60": "hr hour h"}}

_DEGREES = {"c": "c °c degc degreec degreesc celsius degcelsius degreescelsius",
            "f": "f °f degf degreef degreesf fahrenheit degfahrenheit degreesfahrenheit"}
# unit or signal -> further units that are one
_ALSO = {"g/dL": {"%": (1.0, 0.0)}, "L/min": {"lpm": (1.0, 0.0)},
         "hba1c": {"mmol/mol": (0.09148, 2.152)}}

NO_UNIT = ("", "none", "n/a")     # as if nothing were written

# signal (of either database) -> g/mol, charge (0: none, or none that is agreed on)
ANALYTES = {
    "creatinine": (113.12, 0), "bun": (28.014, 0), "glucose": (180.156, 0),
    "bedside_glucose": (180.156, 0), "sodium": (22.990, 1), "potassium": (39.098, 1),
    "chloride": (35.453, 1), "bicarbonate": (61.017, 1), "calcium": (40.078, 2),
    "free_calcium": (40.078, 2), "ionized_calcium": (40.078, 2), "magnesium": (24.305, 2),
    "phosphate": (30.974, 0), "bilirubin": (584.67, 0), "bilirubin_direct": (584.67, 0),
    "uric_acid": (168.11, 0), "cholesterol": (386.66, 0), "triglycerides": (885.4, 0),
    "iron": (55.845, 0), "ammonia": (17.031, 0), "lactate": (89.07, 1), "vancomycin": (1449.3, 0),
    "hemoglobin": (16114.5, 0), "nt_probnp": (8457, 0)}

# A number outside the plausible range of the unit it is filed under, and within these bounds of
# another, can only be of that other: no number is plausible in two of them.
TEMPERATURE = {"C": (30, 43), "F": (86, 110)}
HEIGHT = {"cm": (120, 220), "inch": (48, 84), "m": (1.2, 2.2)}
FRACTION = {"fraction": (0.21, 1)}
LITRES = {"L": (0.1, 1.5)}
THOUSANDTHS = {"thousandths": (1001, 1060)}     # a specific gravity of 1.015 as 1015


def written(text):
  """Units as `conversions` writes them: of a str, or of an ibis column without NULL."""
  return text.lower().replace(" ", "").replace(".", "")


@functools.cache
def conversions(unit, signal=""):
  """How values become `unit`: {unit as written: (factor, offset)}, `unit` among them; what is not
  in it is no unit of such a value.

  Args:
    unit: of the signal; not "", a number without one.
    signal: its name, by which ANALYTES knows what a mole of it weighs.
  """
  name, out = unit.lower(), {}
  if name in _DEGREES:
    warm = {"c": (5 / 9, -160 / 9), "f": (9 / 5, 32.0)}[name]
    return {spelt: (1.0, 0.0) if letter == name else warm
            for letter, spellings in _DEGREES.items() for spelt in spellings.split()}
  for sizes in _WHOLE.values():
    for size, spellings in _of_one_dimension(name, sizes).items():
      out |= dict.fromkeys(spellings.split(), (float(size), 0.0))
  if not out:
    top, slash, bottom = name.partition("/")
    below = next((found for sizes in _BELOW.values()
                  if (found := _of_one_dimension(bottom, sizes))), {1: ""})
    for above, tops in _above(top, bool(slash), *ANALYTES.get(signal, (None, 1))):
      for size, bottoms in below.items():
        factor = float(above / size), 0.0
        out |= {t + slash + b: factor for t in tops.split() for b in bottoms.split() or [""]}
  return out | _ALSO.get(unit, {}) | _ALSO.get(signal, {})


def convert(unit, other, signal=""):
  """(factor, offset) that makes `unit` of a number in `other`."""
  if other == unit:
    return 1.0, 0.0
  if other == "thousandths":
    return 0.001, 0.0
  return conversions(unit, signal)[other.lower()]


def told(unit, signal=""):
  """The usual units that become `unit`, with their factors, in words."""
  known = conversions(unit, signal) if unit else {}
  found = {other: known.get(other.lower(), (1, 0)) for other in _USUAL.split()}
  return ", ".join(f"{other} {factor:.5g}" + (f" {offset:+.5g}" if offset else "")
                   for other, (factor, offset) in found.items()
                   if (factor, offset) != (1, 0) and 1e-3 <= factor <= 1e3)


_USUAL = ("g/L g/dL mg/L mg/dL ug/mL ug/dL ng/mL pg/mL mmol/L umol/L mEq/L ukat/L 10^9/L 10^12/L "
          "#/uL L/min mL/min L dL mL kg g mg mcg ng lb m cm inch mm C F mmHg kPa cmH2O fraction "
          "mmol/mol")


def _of_one_dimension(name, sizes):
  """{size in units of `name`: spellings} of the units of one dimension; {} where `name` is of
  another."""
  mine = next((size for size, spellings in sizes.items() if name in spellings.split()), None)
  return {} if mine is None else {
      fractions.Fraction(size) / fractions.Fraction(mine): spellings
      for size, spellings in sizes.items()}


def _above(top, divided, mass, charge):
  """(size in units of `top`, spellings) of what stands above the line, or alone; masses (where
  `mass`, g/mol, is known), moles and charges are of one dimension."""
  moles = {"amount": fractions.Fraction(1)}
  if charge:
    moles["charge"] = fractions.Fraction(1, charge)
  if mass:
    moles["mass"] = 1 / fractions.Fraction(str(mass))
  for dimension, sizes in _PARTS.items():
    if (divided or dimension != "count") and (found := _of_one_dimension(top, sizes)):
      if dimension not in moles:
        return list(found.items())
      size = fractions.Fraction(next(s for s, names in sizes.items() if top in names.split()))
      return [(fractions.Fraction(s) * moles[d] / (size * moles[dimension]), spellings)
              for d in moles for s, spellings in _PARTS[d].items()]
  raise CohortError(f"'{top}' is no unit that units.py knows.")
