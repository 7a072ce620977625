"""Treatment policies on the simulated doctor's office (policy/simsum.py), whose truth is known.

python -m crl_jax.policy.main --config=configs/policy_simsum.py --workdir=DIR
... --config.policy.world=A    a note exists for a reason that also moves treatment and outcome
"""

from crl_jax import config


def get_config():
  c = config.default().unlock()
  c.policy.cohort = "simsum"
  c.data.simulate.rows = 12000
  return c.lock()
