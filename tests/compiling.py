"""How the tests compile: quickly rather than well, for they are many small programs, each run a few
times."""

import os

# The kernels of XLA's fusion emitters take a third of a test's time to compile.
QUICKLY = ("--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
           "--xla_cpu_use_fusion_emitters=false")


def environment(**variables):
  """The environment of a program that a test starts, which sees one device."""
  return {**os.environ, "XLA_FLAGS": QUICKLY, **variables}
