"""Any cohort that crl_jax.data.cohort.save() wrote, with the paper's settings.

python -m crl_jax.main --config=configs/cohort.py --config.data.root=DIR

Start from here for data of your own; what to change first is in configs/mimic.py (large, embedded)
and configs/eicu.py (small, tabular).
"""

from crl_jax import config


def get_config(model=""):
  c = config.paper_tasks(config.default(model)).unlock()
  c.data.cohort = "saved"
  return c.lock()
