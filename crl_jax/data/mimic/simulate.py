"""Writes the files of a simulated MIMIC-IV: PhysioNet's layout, names, headers and quirks, and the
truth beside them.

python -m crl_jax.data.mimic.simulate --out=DIR --patients=N
python -m crl_jax.main --config=configs/mimic.py --config.data.root=DIR

No patient was read for it. The patients are those of simulated/people.py: latent health drives what
is measured, written and pictured, the clinicians' choice of what is recorded, and the outcomes.
DIR/truth.parquet holds, per patient, latent health, the choice, the probabilities and the outcomes;
no reader looks at it. The same arguments write the same bytes.
"""

import pathlib

from absl import flags
import numpy as np

from crl_jax import commands, config as config_lib
from crl_jax.data import checksums
from crl_jax.data.cohort import CohortError, OccupiedError
from crl_jax.data.mimic.simulated import (csv_gz, images as images_lib, measurements, notes, orders,
                                          people as people_lib, stays)

_OWNERS = 20_000   # patients, admissions or ICU stays of one block of the smaller tables
_NOTES = 2_000     # notes of one block


def write(config, out, patients, seed=0, density=1.0, threads=2, level=1, version="3.1"):
  """Writes the folder.

  Args:
    config: `config.data.simulate`: the world, see data/simulate.py; its modalities must be MIMIC's
      four and its tasks MIMIC's three.
    out: an empty or absent folder.
    patients: how many.
    seed: which ones.
    density: how many times the usual number of charted values and laboratory tests; 1 is about
      1,000 and 500 a patient.
    threads: of the compression.
    level: of the compression, 1 to 9.
    version: of MIMIC-IV, the name of the folder.
  Returns:
    table -> rows.
  Raises:
    CohortError: wrong arguments.
    OccupiedError: the folder holds something.
  """
  out = pathlib.Path(out)
  names = tuple(config.modalities), tuple(config.tasks)
  if names != (("structured", "image", "discharge", "radiology"),
               ("readmission", "icu", "mortality")) or config.sizes[1] != 1376:
    raise CohortError("config.data.simulate must have MIMIC's modalities (structured, image of "
                      "1376, discharge, radiology) and tasks (readmission, icu, mortality), not "
                      f"{names}.")
  if patients < 1 or density <= 0 or threads < 1 or not 1 <= level <= 9:
    raise CohortError("patients and threads must be at least 1, density positive, level 1 to 9.")
  if out.exists() and any(out.iterdir()):
    raise OccupiedError(f"{out} is not empty: name a new folder.")
  people = people_lib.draw(config, patients, seed)
  top = out / "physionet.org" / "files"
  mimic, note = top / "mimiciv" / version, top / "mimic-iv-note" / "2.2"
  cxr, embeddings = top / "mimic-cxr-jpg" / "2.1.0", top / "image-embeddings-mimic-cxr" / "1.0"
  counts, sums = {}, {folder: {} for folder in (mimic, note, cxr, embeddings)}
  with csv_gz.pool(threads) as pool:

    def put(folder, part, table, header, blocks):
      name = str(pathlib.PurePosixPath(part, table + ".csv.gz"))
      counts[table], sums[folder][name] = csv_gz.write(
          folder / name, header, blocks, pool, 2 * threads, level)

    tables = {**stays.tables(people), **orders.tables(people), **stays.visits(people)}
    numbers = {table: number for number, table in enumerate(tables)}
    numbers["pharmacy"] = numbers["prescriptions"]      # the same orders
    for table, (part, header, owners, columns) in tables.items():
      number = numbers[table]
      put(mimic, part, table, header.split(","), _parts(columns, owners, number, seed))
    put(mimic, "icu", "chartevents", measurements.CHART_HEADER,
        measurements.chart_blocks(people, seed, density))
    put(mimic, "hosp", "labevents", measurements.LAB_HEADER,
        measurements.lab_blocks(people, seed, density))
    for table, blocks in _note_blocks(people, seed).items():
      put(note, "note", table, notes.HEADER.split(","), blocks)
    images = images_lib.draw(people, seed)
    put(cxr, "", "mimic-cxr-2.0.0-metadata", images_lib.METADATA_HEADER.split(","),
        [lambda: images_lib.metadata(people, images, np.random.default_rng([10, seed]))])
    sums[embeddings] = images_lib.write(people, images, embeddings, seed)
  for folder, lines in sums.items():
    folder.mkdir(parents=True, exist_ok=True)
    (folder / checksums.LIST).write_text(
        "".join(f"{digest} {name}\n" for name, digest in sorted(lines.items())))
  truth(people).to_parquet(out / "truth.parquet", index=False)
  return {**counts, "embeddings": len(images["patient"])}


def truth(people):
  """The truth as a table, one row a patient: ids, latent health, observed, risks, outcomes."""
  import pandas as pd

  index = people.index
  tasks = ("readmission", "icu", "mortality")
  return pd.DataFrame({
      "subject_id": people.subject, "hadm_id": people.hadm[index], "eligible": people.eligible,
      **{f"u{i}": people.u[:, i] for i in range(people.u.shape[1])},
      **{f"observed_{m}": people.observed[:, i]
         for i, m in enumerate(("structured", "image", "discharge", "radiology"))},
      **{f"p_{task}": people.risk[:, t] for t, task in enumerate(tasks)},
      **{f"y_{task}": people.outcome[:, t] for t, task in enumerate(tasks)}})


def _parts(columns, owners, number, seed):
  """Functions that make the blocks of a table of stays.tables() or orders.tables()."""
  for block, lo in enumerate(range(0, owners, _OWNERS)):
    yield lambda lo=lo, block=block: columns(
        np.random.default_rng([5, seed, number, block]), lo, min(lo + _OWNERS, owners))


def _note_blocks(people, seed):
  """Table -> functions that make its blocks: discharge summaries of the stays whose patients have
  one, radiology reports of those who have any."""
  written = np.flatnonzero(people.observed[people.owner, 2])
  rng = np.random.default_rng([11, seed])
  admission = np.flatnonzero(people.observed[people.owner, 3])
  admission = np.repeat(admission, 1 + rng.poisson(0.8, len(admission)))
  length = people.discharge[admission] - people.admit[admission]
  early = np.minimum(0.5 * people_lib.DAY / np.maximum(length, 1), 1)
  first = np.append(True, admission[1:] != admission[:-1])[:len(admission)]
  share = rng.random(len(admission)) * np.where(first, early, 1)
  times = people.admit[admission] + (share * length).astype(np.int64) // 60 * 60
  order = np.lexsort((times, people.owner[admission]))
  admission, times = admission[order], times[order]
  parts = lambda n: range(0, n, _NOTES)
  return {
      "discharge": (lambda lo=lo: notes.discharge_block(people, seed, lo, written[lo:lo + _NOTES])
                    for lo in parts(len(written))),
      "radiology": (lambda lo=lo: notes.radiology_block(
          people, seed, lo, admission[lo:lo + _NOTES], times[lo:lo + _NOTES])
                    for lo in parts(len(admission)))}


def main(f):
  """Writes the folder of the flags and prints its rows."""
  c = config_lib.default().data.simulate
  c.world = f.world
  rows = write(c, f.out, f.patients, f.seed, f.density, f.threads, f.level, f.version)
  for table, count in rows.items():
    print(f"{table:28s}{count:14,d}")
  print(f"\nSimulated: no patient was read. To use it: --config.data.root={f.out}")


if __name__ == "__main__":
  commands.path_flag("out", "Folder to write, empty or absent.", required=True)
  flags.DEFINE_integer("patients", 2000, "Number of patients.", lower_bound=1)
  flags.DEFINE_integer("seed", 0, "Which patients.", lower_bound=0)
  flags.DEFINE_integer("world", 0, "Which world: loadings, policy, risks, effects.", lower_bound=0)
  flags.DEFINE_float("density", 1.0, "How many times the usual number of charted values and "
                     "laboratory tests (about 1,500 a patient).", lower_bound=0)
  flags.DEFINE_integer("threads", 2, "Threads that write and compress.", lower_bound=1)
  flags.DEFINE_integer("level", 1, "Compression.", lower_bound=1, upper_bound=9)
  flags.DEFINE_enum("version", "3.1", ("3.1", "3.0", "2.2"), "Of MIMIC-IV, the folder's name.")
  commands.run(main, "crl_jax.data.mimic.simulate")
