"""Treatment policies on rows of your own: a folder of crl_jax.policy.data.save().

python -m crl_jax.policy.main --config=configs/policy_cohort.py --workdir=DIR \\
  --config.data.root=FOLDER

crl_jax/policy/data.py says what a PolicyCohort is made of and refuses what cannot be right.
"""

from crl_jax import config


def get_config():
  c = config.default().unlock()
  c.policy.cohort = "saved"
  return c.lock()
