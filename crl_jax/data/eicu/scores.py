"""Features computed from others of the same row: scores and ratios that clinicians read. No new
record enters."""

import numpy as np

# APACHE III points: feature of the apache modality -> (upper bounds, points below each bound and
# above the last). Knaus et al., Chest 1991. Neurologic and acid-base points are left out: GCS, pH
# and pCO2 are features.
APS_POINTS = {
    "heart_rate": ((40, 50, 100, 110, 120, 140, 155), (8, 5, 0, 1, 5, 7, 13, 17)),
    "mean_pressure": ((40, 60, 70, 80, 100, 120, 130, 140), (23, 15, 7, 6, 0, 4, 7, 9, 10)),
    "temperature": ((33, 33.5, 34, 35, 36, 40), (20, 16, 13, 8, 2, 0, 4)),
    "respiratory_rate": ((6, 12, 14, 25, 35, 40, 50), (17, 8, 7, 0, 6, 9, 11, 18)),
    "hematocrit": ((41, 50), (3, 0, 3)), "wbc": ((1, 3, 20, 25), (19, 5, 0, 1, 5)),
    "creatinine": ((0.5, 1.5, 1.95), (3, 0, 4, 7)), "bun": ((17, 20, 40, 80), (0, 2, 7, 11, 12)),
    "sodium": ((120, 135, 155), (3, 2, 0, 4)), "albumin": ((2, 2.5, 4.5), (11, 6, 0, 4)),
    "bilirubin": ((2, 3, 5, 8), (0, 5, 6, 8, 16)), "glucose": ((40, 60, 200, 350), (8, 9, 0, 3, 5)),
    "pao2": ((50, 70, 80), (15, 5, 2, 0)),
}
AGE_POINTS = ((45, 60, 65, 70, 75, 85), (0, 5, 11, 13, 16, 17, 24))


def add(values, minutes, kind):
  """Adds the derived features to `values` (modality -> feature -> (N,) float64) in place.

  Args:
    minutes: (N,) time of the row, in minutes after unit admission.
    kind: (N,) 0 for rows at the prediction hour; other rows are at unit discharge.
  """
  d, a, f, l, v, r = (values[m] for m in ("demographics", "apache", "fluid", "laboratory", "vitals",
                                          "respiratory"))
  d["bmi"] = d["weight"] / (d["height"] / 100) ** 2
  d["age_points"] = _points(d["age"], *AGE_POINTS)
  values["admission"]["hours_in_unit"] = minutes / 60
  values["admission"]["at_discharge"] = (kind != 0).astype(np.float64)
  a["gcs"] = a["gcs_eyes"] + a["gcs_motor"] + a["gcs_verbal"]
  points = np.stack([_points(a[name], *table) for name, table in APS_POINTS.items()])
  # what was not measured counts as normal, as in APACHE
  measured = ~np.isnan(points).all(0)
  a["physiology_points"] = np.where(measured, np.nansum(points, 0), np.nan)
  a["pao2_fio2"] = a["pao2"] / a["fio2"] * 100
  f["vasopressors"] = sum(f["inf_" + n] for n in (
      "norepinephrine", "vasopressin", "epinephrine", "phenylephrine", "dopamine"))
  l["anion_gap"] = l["sodium_last"] - l["chloride_last"] - l["bicarbonate_last"]
  l["bun_creatinine"] = l["bun_last"] / np.maximum(l["creatinine_last"], 0.1)
  systolic = np.where(np.isnan(v["systolic_last"]), v["invasive_systolic_last"], v["systolic_last"])
  v["shock_index"] = v["heart_rate_last"] / systolic
  v["gcs_sum"] = v["gcs_eyes_last"] + v["gcs_verbal_last"] + v["gcs_motor_last"]
  r["any_ventilation"] = np.fmax.reduce([r[n] for n in (
      "plan_ventilated", "plan_tube", "tx_ventilation", "care_oral_tube", "care_tracheostomy")])
  fio2 = np.where(np.isnan(r["fio2_last"]), r["lab_fio2_last"], r["fio2_last"])
  r["pao2_fio2"] = l["pao2_last"] / fio2 * 100
  r["saturation_fio2"] = v["saturation_last"] / fio2 * 100


def _points(x, bounds, points):
  """Points of the values `x` (N,): `points[i]` below `bounds[i]`, the last above all; NaN where `x`
  is."""
  return np.where(np.isnan(x), np.nan,
                  np.asarray(points, float)[np.searchsorted(bounds, x, side="right")])
