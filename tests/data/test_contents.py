"""Series and images: what is refused by name, what is survived and counted, and how they are
kept."""

import dataclasses
import re

import numpy as np
import pytest

from crl_jax.data import cohort as cohort_lib
from crl_jax.data.cohort import CohortError

N, L, V = 12, 5, 2


@pytest.fixture
def cohort():
  """Twelve rows: a series of three to five steps, and an image; the last row has neither."""
  rng = np.random.default_rng(0)
  series = rng.normal(size=(N, L, 1 + V)).astype(np.float32)
  series[..., 0] = np.sort(rng.uniform(0, 48, (N, L)), 1)
  series[::2, 3:] = np.nan
  series[1, 2, 1] = np.nan
  image = rng.integers(0, 256, (N, 6, 6, 1)).astype(np.uint8)
  observed = np.ones((N, 2), bool)
  observed[-1] = False
  series[-1], image[-1] = 0, 0
  return cohort_lib.Cohort(
      ("vitals", "xray"), ("death",), {"vitals": series, "xray": image}, observed,
      (np.arange(N) % 2)[:, None].astype(np.float32), np.arange(N), np.arange(N), {},
      {"vitals": ["hours", "pulse", "lactate"], "xray": ["gray"]}, kinds={"vitals": "series"})


def changed(cohort, modality, at, value):
  x = cohort.inputs[modality].copy()
  x[at] = value
  return dataclasses.replace(cohort, inputs={**cohort.inputs, modality: x})


def test_kinds_are_told_by_name_or_by_the_type_of_their_values(cohort):
  info = cohort_lib.validate(cohort).info
  assert info["warnings"] == ["1 rows have no modality at all: predicted from their pattern alone"]
  assert cohort.kind("vitals") == "series" and cohort.kind("xray") == "image"
  assert dataclasses.replace(cohort, kinds={}).kind("vitals") == "sequence"


@pytest.mark.parametrize("at, value, words", [
    ((1, 1, 0), np.nan, "has a step without a time before one with a time: steps that do not exist "
                        "(time NaN) stand at the end (1 rows)"),
    ((slice(2), slice(None), 0), np.nan, "is marked observed and has no step: set observed to "
                                         "False (2 rows)"),
    ((3, 2, 0), 99.0, "has times that fall: sort the steps by 'hours' (1 rows)"),
    ((5, 4, 0), 1e6, "has times of 1,000,000 hours or more"),
    ((5, 4, 0), np.inf, "has times of 1,000,000 hours or more"),
    ((3, 2, 2), np.inf, "inputs['vitals'] column 'lactate' is infinite or past 1e30 in 1 rows")])
def test_a_series_that_cannot_be_is_refused(cohort, at, value, words):
  with pytest.raises(CohortError, match=re.escape(words)):
    cohort_lib.validate(changed(cohort, "vitals", at, value))


def test_what_no_row_has_is_not_looked_at(cohort):
  assert cohort_lib.validate(changed(cohort, "vitals", -1, np.inf))


@pytest.mark.parametrize("names", [["pulse", "hours", "lactate"], ["hours"]])
def test_a_series_names_its_time_and_its_variables(cohort, names):
  x = cohort.inputs["vitals"][..., :len(names)]
  with pytest.raises(CohortError, match="they must be 'hours', the time"):
    cohort_lib.validate(dataclasses.replace(
        cohort, features={**cohort.features, "vitals": names},
        inputs={**cohort.inputs, "vitals": x}))


def test_steps_without_a_value_and_images_of_one_value_are_counted(cohort):
  odd = changed(cohort, "vitals", (1, slice(2, 4), slice(1, None)), np.nan)
  odd = changed(odd, "xray", slice(3), 7)
  text = " | ".join(cohort_lib.validate(odd).info["warnings"])
  assert "series 'vitals' has 2 steps without any value" in text
  assert "'xray' holds images of one value alone in 3 observed rows: a hidden missing?" in text
  nobody = dataclasses.replace(cohort, observed=cohort.observed & [True, False])
  assert "'xray' is observed for nobody" in " | ".join(cohort_lib.validate(nobody).info["warnings"])


@pytest.mark.parametrize("change", [lambda x: x.astype(np.float32), lambda x: x[..., 0]])
def test_an_image_is_uint8_with_channels(cohort, change):
  bad = dataclasses.replace(cohort, kinds={**cohort.kinds, "xray": "image"}, inputs={
      **cohort.inputs, "xray": change(cohort.inputs["xray"])})
  with pytest.raises(CohortError, match=r"'xray'. \(image\) is .* expected uint8 with 4 axes"):
    cohort_lib.validate(bad)


def test_floats_of_an_image_are_told_how_to_come(cohort):
  floats = dataclasses.replace(cohort, inputs={
      **cohort.inputs, "xray": np.zeros((N, 8, 8), np.float32)})
  with pytest.raises(CohortError, match=r"pixels: uint8 \(rows, height, width, channels\)"):
    cohort_lib.validate(floats)


def test_they_are_saved_and_read_from_disk_as_they_are(cohort, tmp_path):
  room = cohort_lib.on_disk(tmp_path / "c")
  lying = {m: room(m, x.shape, x.dtype) for m, x in cohort.inputs.items()}
  for m, x in cohort.inputs.items():
    lying[m][:] = x
  cohort_lib.save(dataclasses.replace(cohort, inputs=lying), tmp_path / "c")
  back = cohort_lib.load(tmp_path / "c")
  assert cohort_lib.fingerprint(back) == cohort_lib.fingerprint(cohort)
  assert back.kinds == {"vitals": "series"} and back.kind("xray") == "image"
  assert all(isinstance(x, np.memmap) for x in back.inputs.values())
  assert back.inputs["xray"].dtype == np.uint8 and (
      (tmp_path / "c" / "inputs.xray.npy").stat().st_size < 128 + N * 36 + 1)
