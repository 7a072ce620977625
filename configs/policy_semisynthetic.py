"""Treatment policies on eICU's inputs and patterns, with a simulated treatment and outcome.

python -m crl_jax.policy.main --config=configs/policy_semisynthetic.py --workdir=OUT \\
  --config.data.root=DIR
... --config.policy.semisynthetic.align=-1    the sickest gain least: a risk ranking misleads

DIR: the folder with patient.csv.gz. One row a patient, the first.
"""

from crl_jax import config


def get_config():
  c = config.default().unlock()
  c.data.cohort = "eicu"
  c.preprocess.scale = "quantile"   # laboratory values and counts are skewed and hold outliers
  c.policy.cohort = "semisynthetic"
  c.policy.semisynthetic.features = (
      "demographics/age", "apache/heart_rate", "apache/temperature", "apache/respiratory_rate",
      "apache/sodium", "apache/creatinine")
  c.policy.components = 32
  return c.lock()
