"""Treatment policies where confounding and missingness come together (policy/mmnar.py).

python -m crl_jax.policy.main --config=configs/policy_mmnar.py --workdir=DIR
... --config.policy.nuisance_inputs=x    what ignoring the pattern does: the average effect is off
"""

from crl_jax import config


def get_config():
  c = config.default().unlock()
  c.policy.cohort = "mmnar"
  c.data.simulate.rows = 12000
  return c.lock()
