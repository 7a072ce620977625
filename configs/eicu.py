"""eICU-CRD: ten virtual modalities, readmission to the unit and in-hospital mortality, all five folds.

python -m crl_jax.main --config=configs/eicu.py --config.data.root=DIR    (DIR: the folder with patient.csv.gz)
"""

from crl_jax import config


def get_config():
  c = config.default().unlock()
  c.data.cohort = "eicu"
  c.members.folds = 5
  return c.lock()
