"""MIMIC-IV's four modalities; without a data root, a simulated cohort of its shape.

python -m crl_jax.main --config=configs/mimic.py
"""

from crl_jax import config


def get_config():
  c = config.default().unlock()
  c.data.cohort = "mimic"
  return c.lock()
