"""One study of treatment policies, from rows to report.html:
python -m crl_jax.policy.main --config=configs/policy_simsum.py --workdir=DIR [--config.key=value].
"""

import logging

from ml_collections import config_flags

from crl_jax import commands


def main(given):
  from crl_jax.policy import folder   # after the flags are parsed, so that --help is quick
  logging.getLogger("crl_jax").setLevel("INFO")
  folder.run(given.config, given.workdir)


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
  commands.path_flag("workdir", "Folder of the study.", required=True)
  commands.run(main, "crl_jax.policy.main", parse=commands.parse_config)
