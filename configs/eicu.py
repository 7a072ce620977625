"""eICU-CRD: ten virtual modalities, readmission to the unit and in-hospital mortality, all five
folds.

python -m crl_jax.main --config=configs/eicu.py --config.data.root=DIR
(DIR: the folder with patient.csv.gz)

About 10 minutes on 2 cores for the demo's 150 hospitals. Expected: see experiments/README.md. The
values below were chosen on validation rows; the same page tells what was tried.
"""

from crl_jax import config


def get_config(model=""):
  c = config.paper_tasks(config.default(model)).unlock()
  c.data.cohort = "eicu"
  c.members.folds = 5
  c.members.seeds = 5               # 1,100 training rows: one initialisation moves AUROC by 0.01
  c.members.ensemble = True
  c.preprocess.scale = "quantile"   # laboratory values and counts are skewed and hold outliers
  c.model.width = 64
  c.model.dropout = 0.3
  if c.model.name == "crl_mmnar":
    c.model.crl_mmnar.hide = "one"
  c.train.batch_size = 64
  c.train.ema = 0.99
  c.train.pretrain.epochs = 3
  c.train.joint.epochs = 30
  c.train.joint.learning_rate = 1e-3
  c.train.joint.patience = 0        # 11 deaths among a fold's validation rows: too few to stop by
  c.train.weight_decay = 0.5
  return c.lock()
