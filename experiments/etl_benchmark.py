"""Seconds and memory from MIMIC-IV's files to the cohort, beside what `gzip -dc FILES | wc -l`
takes on the same files.

    python -m experiments.etl_benchmark --dir=DIR [--rows=100_000_000] [--patients=20_000]
        [--cores=2] [--reuse] [KEY=VALUE ...]

DIR gets a simulated MIMIC-IV with about --rows rows of chartevents and labevents together (17 bytes
a row on disk); --reuse takes the one that lies there. Every measurement is a process of its own on
the same --cores, one after another: decompression alone before and after the cohort is made (the
machine may be shared: both are shown), the cohort from the files with an empty cache, the cohort
from the cache; seconds are from the start of Python to the cohort, memory is the largest resident
set; CPU seconds, of all cores together, are what a busy machine changes least. Notes are left out
unless text.model=DIR names a BERT: encoding them is another benchmark. KEY=VALUE are settings of
the config.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

from crl_jax import commands

_ROWS_A_PATIENT = 1450   # of chartevents and labevents at density 1, rather fewer than there are
_BUILD = """
import json, logging, resource, sys, time
logging.basicConfig(level=logging.WARNING)
from crl_jax import config as config_lib
from crl_jax.data import sources
config = config_lib.override(config_lib.default(), sys.argv[1:])
begun = time.perf_counter()
cohort = sources.build_cohort(config)
bytes_read = sum(x[:].nbytes for x in cohort.inputs.values())
inputs = {}
for i in cohort.info["inputs"]:    # a table may lie in parts
  inputs[i["table"]] = inputs.get(i["table"], 0) + i["rows"]
print(json.dumps(dict(build=time.perf_counter() - begun, rows=len(cohort), bytes=bytes_read,
                      patients=cohort.info["patients"],
                      inputs=inputs)))
"""


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--dir", type=commands.path, required=True)
  parser.add_argument("--rows", type=int, default=100_000_000)
  parser.add_argument("--patients", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--cores", type=int, default=2)
  parser.add_argument("--reuse", action="store_true")
  parser.add_argument("settings", nargs="*", help="key=value of the config")
  a = parser.parse_args()
  if not a.reuse:
    simulate(a.dir, a.rows, a.patients, a.seed)
  print(table(measure(a.dir, a.settings, a.cores)))


def simulate(folder, rows, patients, seed):
  """Writes the files with about `rows` rows of chartevents and labevents."""
  from crl_jax import config as config_lib
  from crl_jax.data.mimic import simulate as mimic_simulate
  begun = time.perf_counter()
  counts = mimic_simulate.write(config_lib.default().data.simulate, folder, patients, seed,
                                density=rows / patients / _ROWS_A_PATIENT,
                                threads=len(os.sched_getaffinity(0)))
  large = counts["chartevents"] + counts["labevents"]
  print(f"{large:,} rows of chartevents and labevents of {patients:,} patients written in "
        f"{time.perf_counter() - begun:.0f} s\n", flush=True)


def measure(folder, settings=(), cores=2):
  """Runs every measurement.

  Args:
    folder: the simulated files' data.root.
    settings: 'key=value' of the config.
    cores: how many of this process's cores the measured processes may use.
  Returns:
    dict with "cores", "files" and their "bytes", "gzip" (measured before and after) and "build",
    "cached": dict(seconds, cpu, rss, and lines or build, rows, patients, inputs).
  """
  folder = pathlib.Path(folder)
  settings = ["data.cohort=mimic", f"data.root={folder}", f"data.cache={folder / 'cache'}",
              *settings]
  if not any(s.startswith("text.model=") for s in settings):
    settings.insert(0, "data.mimic.modalities=('structured','image')")
  shutil.rmtree(folder / "cache", ignore_errors=True)
  mine = sorted(os.sched_getaffinity(0))[:cores]
  found = {"cores": len(mine)}
  command = [sys.executable, "-c", _BUILD, *settings]
  files = _files(folder, any(s.startswith("text.model=") for s in settings))
  unzip = ["bash", "-c", f"gzip -dc {' '.join(shlex.quote(str(f)) for f in files)} | wc -l"]

  def read():
    done = _run(unzip, mine)
    return {"lines": int(done.pop("out")), **done}

  before = read()
  for name in ("build", "cached"):
    done = _run(command, mine)
    found[name] = {**json.loads(done.pop("out")), **done}
  return {**found, "gzip": [before, read()], "files": len(files),
          "bytes": sum(f.stat().st_size for f in files)}


def table(found):
  """The measurements as Markdown."""
  before, after = found["gzip"]
  gzip = min(before["seconds"], after["seconds"])
  build, cached = found["build"], found["cached"]
  large = sum(build["inputs"].get(t, 0) for t in ("chartevents", "labevents"))
  rows = [("gzip -dc FILES \\| wc -l, before", before), ("the same, after", after),
          ("files to cohort", build), ("cached start", cached)]
  out = [f"{large:,} rows of chartevents and labevents, {before['lines']:,} lines in "
         f"{found['files']} files of {found['bytes'] / 2**30:.2f} GiB; {found['cores']} cores; "
         f"cohort of {build['rows']:,} rows of {build['patients']:,} patients.", "",
         "| | seconds | times gzip | CPU seconds | peak RSS, GiB |",
         "| --- | ---: | ---: | ---: | ---: |"]
  out += [f"| {name} | {x['seconds']:.1f} | {x['seconds'] / gzip:.2f} | {x['cpu']:.1f} | "
          f"{x['rss'] / 2**30:.2f} |" for name, x in rows]
  return "\n".join(out)


def _files(folder, notes):
  """The csv.gz that the cohort reads."""
  from crl_jax.data.mimic import cohort as mimic_cohort, files as mimic_files
  wanted = ["structured", "image"] + ["discharge", "radiology"] * notes
  schema = mimic_cohort.needed(wanted)
  return [path for name, paths in mimic_files.files(mimic_files.locate(folder)).items()
          if name in schema for path in paths]


def _run(command, cores):
  """dict(seconds, cpu seconds, out, rss in bytes) of a process on `cores`, with its children."""
  env = dict(os.environ, OMP_NUM_THREADS=str(len(cores)), JAX_PLATFORMS="cpu")
  code = ("import resource, subprocess, sys\n"
          "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)\n"
          "sys.stdout.buffer.write(done.stdout)\n"
          "use = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
          "print(use.ru_maxrss, use.ru_utime + use.ru_stime)\n"
          "sys.exit(done.returncode)")
  begun = time.perf_counter()
  done = subprocess.run([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True,
                        env=env, preexec_fn=lambda: os.sched_setaffinity(0, cores), check=True)
  seconds = time.perf_counter() - begun
  *out, last = done.stdout.strip().splitlines()
  rss, cpu = last.split()
  return dict(seconds=seconds, cpu=float(cpu), out="\n".join(out), rss=int(rss) * 1024)


if __name__ == "__main__":
  main()
