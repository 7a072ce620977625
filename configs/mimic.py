"""MIMIC-IV's four modalities; without a data root, a simulated cohort of their shape.

python -m crl_jax.main --config=configs/mimic.py
python -m crl_jax.main --config=configs/mimic.py --config.data.root=DIR --config.text.model=BERT

DIR: the folder of PhysioNet's files (data/mimic/files.py says which layouts; `python -m
crl_jax.data.mimic.verify --root=DIR` what is missing); BERT: the folder of Bio_ClinicalBERT or
another. --config.data.protocol=paper builds the paper's rows.

About 2 minutes on 2 cores. Expected on the simulated cohort (8,000 rows, fold 0): see README.md.
The values below were chosen on validation rows at 20,000 rows; experiments/README.md tells what was
tried.
"""

from crl_jax import config


def get_config(model=""):
  c = config.paper_tasks(config.default(model)).unlock()
  c.data.cohort = "mimic"
  c.data.simulate.rows = 8000
  c.data.memory_limit = "2GB"       # of DuckDB: the whole program stays under 4 GB
  # the embeddings' hundreds of noise directions would be learned by heart
  c.preprocess.components = 32
  if c.model.name == "crl_mmnar":
    c.model.crl_mmnar.hide = "one"
  c.train.batch_size = 128
  c.train.ema = 0.995
  c.train.pretrain.epochs = 5
  c.train.joint.epochs = 40
  c.train.joint.learning_rate = 5e-4
  c.train.joint.patience = 8
  return c.lock()
