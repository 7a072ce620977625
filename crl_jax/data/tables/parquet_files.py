"""A Parquet file's columns against the declared ones, before anything of it is read."""

from crl_jax.data.cohort import CohortError
from crl_jax.data.tables import csv_files

# declared kind -> kinds of columns it can be made of; the values of some are checked one by one
_USABLE = {"int64": ("int64", "float64", "string", "null"),
           "float64": ("int64", "float64", "string", "null"),
           "timestamp": ("timestamp", "string", "null"),
           "string": ("int64", "float64", "timestamp", "string", "null")}
_WORDS = {"int64": "a whole number", "float64": "a number", "timestamp": "a time without a zone",
          "string": "text"}


def columns(path, table):
  """Returns (picked, found): declared column -> its name in the file, see csv_files.pick; name in
  the file -> "int64" | "float64" | "string" | "timestamp" | "null", without any value, or the name
  of a type that is not used.

  Raises:
    CohortError: no Parquet file, a column is absent, or cannot be what it is declared as.
  """
  import pyarrow as pa
  from pyarrow import parquet
  try:
    with parquet.ParquetFile(path) as file:
      found = {field.name: _kind(field.type) for field in file.schema_arrow}
      found |= {c.name: "INT96 time" for c in map(file.schema.column, range(len(file.schema.names)))
                if c.physical_type == "INT96" and c.path in found}
      picked = csv_files.pick(path, file.schema_arrow.names, table)
      for column, kind in table.types.items():
        raw = picked[column]
        if raw and found[raw] not in _USABLE[kind]:
          if not _is_null(file, raw):
            raise CohortError(_refusal(path, column, found[raw], kind))
          found[raw] = "null"
  except (pa.ArrowException, OSError):
    raise CohortError(f"{path.name} is not a Parquet file. Download or export it again.") from None
  return picked, found


def _is_null(file, column):
  """Whether a column of a ParquetFile holds no value; NaN is none."""
  return all(batch.column(0).is_null(nan_is_null=True).sum().as_py() == len(batch)
             for batch in file.iter_batches(columns=[column]) if len(batch))


def _kind(found):
  from pyarrow import types
  if types.is_dictionary(found):
    found = found.value_type
  if types.is_timestamp(found) or types.is_date(found):
    return "zoned time" if getattr(found, "tz", None) else "timestamp"
  if types.is_uint64(found) or types.is_floating(found) or types.is_decimal(found):
    return "float64"
  if types.is_integer(found):
    return "int64"
  if types.is_string(found) or types.is_large_string(found) or types.is_string_view(found):
    return "string"
  return str(found)


def _refusal(path, column, found, kind):
  """Why a column that holds values of the kind `found` is refused."""
  if found == "zoned time":
    return (f"{path.name}: {column} holds times with a zone, which would be shifted. Write it as "
            "local time without one (pandas: .dt.tz_localize(None)).")
  if found == "INT96 time":
    return (f"{path.name}: {column} holds INT96 times, which are instants in UTC of a clock whose "
            "zone is not told. Write it as local time without a zone (Spark: cast to "
            "timestamp_ntz, or to string).")
  return (f"{path.name}: {column} is of type {found}, not {_WORDS[kind]}. Write this column of the "
          "file as that.")
