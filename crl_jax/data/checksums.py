"""The lists of SHA-256 that PhysioNet publishes with its files."""

import re

from crl_jax.data.cohort import CohortError

LIST = "SHA256SUMS.txt"


def published(folder):
  """name ("hosp/patients.csv.gz") -> SHA-256 as the folder's list has it; None without a list."""
  path = folder / LIST
  if not path.is_file():
    return None
  lines = (line.partition(" ") for line in path.read_text(errors="replace").splitlines())
  return {name.strip().removeprefix("*").removeprefix("./"): digest.lower()
          for digest, _, name in lines if re.fullmatch("[0-9a-fA-F]{64}", digest)}


def compare(path, digest):
  """Raises CohortError where a list beside the file, or one folder up, has another digest for its
  name; the case of names is ignored."""
  for folder in (path.parent, path.parent.parent):
    listed = {name.rsplit("/", 1)[-1].lower(): known
              for name, known in (published(folder) or {}).items()}
    if listed.get(path.name.lower(), digest) != digest:
      raise CohortError(f"{path.name} differs from its checksum in {LIST}. Download it again.")
