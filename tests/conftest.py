"""Eight CPU devices for every test, no accidental rank promotion, and small shared pieces."""

import contextlib
import json
import os
import pathlib
import types

os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") +
                           " --xla_force_host_platform_device_count=8")
# Compile quickly rather than well: the tests are many small programs, each run a few times.
os.environ["XLA_FLAGS"] += (" --xla_backend_optimization_level=0 "
                            "--xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["CRL_JAX_CACHE"] = ""   # no test meets a cohort that another one prepared

import numpy as np
import pytest

from crl_jax import config as config_lib, models
from crl_jax.data.cohort import Batch, Cohort



def pytest_configure(config):
  config.addinivalue_line("markers", "slow: minutes; run on demand with -m slow")


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


@pytest.fixture
def small_config():
  """The default tree at a size that trains in seconds."""
  c = config_lib.default().unlock()
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
  c = config_lib.default().unlock()
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
    from crl_jax import programs, sharding, train
    text = lambda c: json.dumps([c.model.to_dict(), c.loss.to_dict(), c.train.to_dict(),
                                 c.parallel, c.members.to_dict()])
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(models, "build",
                    keep(models.build, lambda c, spec: ("model", text(c), repr(spec))))
      patch.setattr(train, "make_optimizer",
                    keep(train.make_optimizer, lambda c: ("optimizer", text(c))))
      patch.setattr(programs, "Programs", keep(
          programs.Programs, lambda m, o, c, *rest: ("programs", id(m), id(o), text(c), rest[2])))
      patch.setattr(sharding, "select_devices", lambda platform: jax.devices("cpu")[:1])
      yield
  return context


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
