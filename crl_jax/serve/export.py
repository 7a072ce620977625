"""The model of a finished run as files that need no crl_jax: `model.stablehlo` (jax.export; any
number of rows, CPU and NVIDIA GPU), `weights.npz` (its first argument), `schema.json` (what goes
in, what comes out, what it was trained on) and `example.py` (loads it with `pip install jax numpy
flatbuffers` alone; jax.export needs the last). The weights were learned from patients: share them
only as the data's use agreement allows.
"""

import contextlib
import pathlib
import tempfile

import jax
from jax import export as jax_export
import numpy as np

from crl_jax import __version__, config as config_lib, files
from crl_jax.serve import predictor as predictor_lib

PLATFORMS = ("cpu", "cuda")

_NUMBERS = ("raw values in the units of the training data, features on the last axis; NaN is a "
            "missing feature, and features of NaN alone on any axis before are padding; ignored "
            "where not observed")
_DESCRIPTION = {
    "text": "token ids of windows of text; 0 is padding; ignored where not observed",
    "series": "steps in ascending order, the first feature their time in hours, NaN where there is "
              "no further step; then raw values in the units of the training data, NaN where "
              "nothing was measured; ignored where not observed",
    "image": "pixels (rows, height, width, channels), 0 to 255; ignored where not observed"}

_EXAMPLE = '''\
"""Predicts made-up rows with the exported model, in 20 lines. It needs jax, NumPy and, because
jax.export reads its files with it, flatbuffers: pip install jax numpy flatbuffers."""

import hashlib
import json
import pathlib
import jax.export
import numpy as np

here = pathlib.Path(__file__).parent
schema = json.loads((here / "schema.json").read_text())
for name, digest in schema["sha256"].items():
  if hashlib.sha256((here / name).read_bytes()).hexdigest() != digest:
    raise SystemExit(f"{name} is damaged: it is not what was exported. Copy or export it again.")
model = jax.export.deserialize((here / "model.stablehlo").read_bytes())
weights = dict(np.load(here / "weights.npz", allow_pickle=False))

# Each modality alone, then all of them: zeros in the units of the training data, or empty texts.
names = np.array(schema["inputs"]["observed"]["columns"])
observed = np.concatenate([np.eye(len(names)), np.ones((1, len(names)))]).astype(bool)
inputs = {m: np.zeros((len(observed), *about["shape"][1:]), about["dtype"])
          for m, about in schema["inputs"]["inputs"].items()}
for row, found in zip(observed, zip(*map(np.asarray, model.call(weights, inputs, observed)))):
  for task, b, r, *chosen in zip(schema["outputs"]["columns"], *found):
    print(f"{'+'.join(names[row])}: {task} {b:.6f}, rectified {r:.6f}"
          + "".join(f", chosen {c:.6f}" for c in chosen))
'''


def export(workdir, output):
  """Writes the model of a finished run to the folder `output`, all of it or nothing.

  Args:
    workdir: a finished run folder.
    output: folder to make; it may exist if it is empty.
  Returns:
    (how many members are averaged, of how many training rows each holds embeddings).
  Raises:
    OSError: the run is not finished or damaged; `output` holds something or is a file.
    ValueError: another version of crl_jax made the run.
  """
  workdir, output = pathlib.Path(workdir), pathlib.Path(output).resolve()
  if output.exists() and not (output.is_dir() and not any(output.iterdir())):
    raise OSError(f"--output {output} exists and is not an empty folder: name another, or remove "
                  "it.")
  config, facts, _ = predictor_lib.read_run(workdir)
  predictor = predictor_lib.load(workdir)
  staged, weights = stage(predictor)
  there = output.exists()   # perhaps mounted: nothing can take its place, and it is filled instead
  output.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=output if there else output.parent,
                                   prefix=f".{output.name}.") as temporary:
    folder = pathlib.Path(temporary) / "export"
    folder.mkdir()
    (folder / "model.stablehlo").write_bytes(staged.serialize())
    np.savez(folder / "weights.npz", allow_pickle=False, **weights)
    digests = {name: files.sha256(folder / name) for name in ("model.stablehlo", "weights.npz")}
    files.write_json(folder / "schema.json",
                     schema(staged, weights, predictor, config, facts, digests))
    (folder / "example.py").write_text(_EXAMPLE)
    if not there:
      folder.replace(output)
    else:
      for name in ("example.py", "weights.npz", "model.stablehlo", "schema.json"):
        (folder / name).replace(output / name)
  return predictor.members, predictor.remembers


def stage(predictor):
  """Predictor.function for any number of rows and PLATFORMS.

  Args:
    predictor: predictor.Predictor.
  Returns:
    (jax.export.Exported, weights): the former's call(weights, inputs, observed) is that of
    Predictor.whole, or of Predictor.function for a run without a headline, with
    `weights` (name -> NumPy array) flat. The training data's range, which the function does not
    use, is not among them: it shows single patients' values.
  """
  stats = {m: {k: x for k, x in s.items() if k not in ("low", "high")}
           for m, s in predictor.weights["stats"].items()}
  leaves, structure = jax.tree_util.tree_flatten_with_path(
      dict(predictor.weights, stats=stats, **predictor.more))
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
  weights = {name: np.asarray(x) for name, (_, x) in zip(names, leaves)}

  def predict(weights, inputs, observed):
    tree = jax.tree.unflatten(structure, [weights[name] for name in names])
    return (predictor.whole or predictor.function)(tree, inputs, observed)
  rows, = jax_export.symbolic_shape("rows")
  shaped = jax.ShapeDtypeStruct
  with _without_source_paths():
    return jax_export.export(jax.jit(predict), platforms=PLATFORMS)(
        {name: shaped(x.shape, x.dtype) for name, x in weights.items()},
        {m: shaped((rows, *shape), predictor.dtype(m)) for m, shape in predictor.shapes.items()},
        shaped((rows, len(predictor.modalities)), np.bool_)), weights


@contextlib.contextmanager
def _without_source_paths():
  """Keeps this machine's paths out of what is lowered: they name users and folders."""
  key = "jax_traceback_in_locations_limit"
  before = getattr(jax.config, key)
  jax.config.update(key, 0)
  try:
    yield
  finally:
    jax.config.update(key, before)


def schema(staged, weights, predictor, config, facts, digests):
  """The content of schema.json: files, arguments and results of the call, facts of the training.

  Args:
    staged, weights: from stage().
    predictor: predictor.Predictor.
    config, facts: from predictor.read_run().
    digests: file name -> SHA-256.
  Returns:
    dict of JSON types; no count, value or id of patients.
  """
  headline = predictor.whole is not None
  array = lambda x: {"dtype": x.dtype.name, "shape": list(x.shape)}
  return {
      "call": "jax.export.deserialize(bytes of model.stablehlo).call(weights, inputs, observed) -> "
              "(base, rectified" + ", chosen)" * headline + ")" * (not headline),
      "sha256": digests,
      # embeddings, in weights memory/...: as confidential as the patients' records
      "holds_rows_of_training_patients": predictor.remembers,
      "inputs": {
          "weights": {"description": "the arrays of weights.npz by name",
                      "arrays": {name: array(x) for name, x in weights.items()}},
          "inputs": {m: {
              "dtype": predictor.dtype(m).name, "shape": ["rows", *predictor.shapes[m]],
              "features": facts["features"][m],
              "description": _DESCRIPTION.get(predictor.kinds.get(m), _NUMBERS)}
                     for m in predictor.modalities},
          "observed": {"dtype": "bool", "shape": ["rows", len(predictor.modalities)],
                       "columns": list(predictor.modalities),
                       "description": "True where the row has the modality; any pattern may "
                                      "occur"}},
      "outputs": {
          "dtype": "float32", "shape": ["rows", len(predictor.tasks)],
          "columns": list(predictor.tasks),
          "base": "probability of each task, mean over members",
          "rectified": "base with the pooled rectifier's correction of the row's pattern" +
                       ": the probability to use" * (not headline),
          **({"chosen": "calibrated, and stacked with the yardsticks where that was better on "
                        "calibration patients: the probability to use"} if headline else {})},
      "training": {
          "config_sha256": config_lib.identity(config),
          "data_fingerprint": facts["fingerprint"], "cohort": config.data.cohort,
          "protocol": config.data.protocol, "banner": facts.get("banner", ""),
          "notes": facts.get("notes", []), "members": predictor.members,
          "trained_patterns": [[m for i, m in enumerate(predictor.modalities) if p >> i & 1]
                               for p in facts["trained_patterns"]],
          "versions": facts["versions"]},
      "export": {
          "versions": {"crl_jax": __version__, "jax": jax.__version__, "numpy": np.__version__},
          "platforms": list(staged.platforms),
          "calling_convention": staged.calling_convention_version,
          "readable": f"by jax {jax.__version__} and its releases of the following six months; "
                      "after that, export the run again"}}
