"""Eight CPU devices for every test, no accidental rank promotion, and small shared pieces."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Compile quickly rather than well: the tests are many small programs, each run a few times.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pytest

from crl_jax import config as config_lib, models
from crl_jax.data.cohort import Batch, Cohort



def pytest_configure(config):
  config.addinivalue_line("markers", "slow: minutes; run on demand with -m slow")


ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def eicu_root():
  """The eICU demo's folder; tests that need it are skipped, with this reason, where it is absent."""
  root = ROOT.parent / "shared" / "data" / "eicu-demo"
  if not root.is_dir():
    pytest.skip("the eICU demo tables are not at ../shared/data/eicu-demo")
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
  """Sixteen rows of twelve patients with every kind of gap: undefined labels, missing modalities, one row with none."""
  rng, rows = np.random.default_rng(0), 16
  observed = rng.random((rows, len(spec.modalities))) < 0.6
  observed[3] = False
  observed[4] = True
  labels = (rng.random((rows, 2)) < 0.4).astype(np.float32)
  labels[:4, 0] = np.nan
  inputs = {m: rng.normal(size=(rows, *shape)).astype(np.float32) for m, shape in spec.shapes.items()}
  return Batch(inputs, observed, labels, np.ones(rows, bool), (np.arange(rows) % 12).astype(np.int32),
               np.arange(rows, dtype=np.int32))
