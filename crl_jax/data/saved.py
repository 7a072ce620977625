"""A cohort in a folder that data/cohort.py wrote: a source of your own, or one prepared before.

To bring any other data set, make a `Cohort` of it once and save it:

    from crl_jax.data import cohort
    cohort.save(cohort.Cohort(
        modalities=("labs", "notes"), tasks=("death",),
        inputs={"labs": labs, "notes": vectors},      # float32 (N, F), zeros where unobserved
        observed=observed,                            # bool (N, 2), True where present
        labels=labels,                                # float32 (N, 1) in {0, 1, NaN}
        row_id=row_id, patient_id=patient_id,         # int64 (N,)
        groups={"sex": sex},                          # str (N,)
        features={"labs": lab_names, "notes": vector_names}), "DIR")

    python -m crl_jax.main --config=configs/cohort.py --config.data.root=DIR

What a row's input is, besides a vector: kinds={"vitals": "series"} for float32 (N, L, 1 + V), the
hours of each step in front, NaN where there is no further step or nothing was measured; "set" and
"sequence" for (N, K, F). Images are uint8 (N, H, W, C) and token ids int32 (N, K, L), told by their
type. What does not fit in memory is written to cohort.on_disk("DIR")(name, shape, dtype).

DIR then holds, as NumPy files that any language reads, inputs.<modality>.npy, rows.observed.npy,
rows.labels.npy, rows.row_id.npy, rows.patient_id.npy, groups.<name>.npy, references.<name>.npy, and
cohort.json with the names of modalities, tasks, features and arrays, the kinds of the inputs and
what data.json of a run is to say (`info`). A folder of prepared.py is such a folder too.
"""

import pathlib

from crl_jax.data import cohort as cohort_lib


def build(config, for_prediction=False):
  """Returns the `Cohort` in the folder config.data.root, its inputs read from disk as they are
  used. `for_prediction` changes nothing. Raises CohortError where there is none."""
  del for_prediction
  root = pathlib.Path(config.data.root)
  if not config.data.root or not (root / "cohort.json").exists():
    raise cohort_lib.CohortError(
        f"config.data.root='{config.data.root}' holds no cohort.json: give the folder of a cohort "
        "written by crl_jax.data.cohort.save().")
  return cohort_lib.load(root)
