"""The one default configuration tree. Every key has a comment; `check` refuses what cannot work.

Files in configs/ start from `default()` and change a few keys. Values marked [paper] are those of
arXiv 2509.17228.
"""

import ast
import difflib
import hashlib
import json

import ml_collections

from crl_jax import files, models

_D = ml_collections.ConfigDict


def default(model=""):
  """Returns the locked default tree (`ml_collections.ConfigDict`) of a model of models.MODELS, by
  default CRL-MMNAR. Raises ValueError that lists them for an unknown name."""
  c = _D()
  c.seed = 0                        # root of all randomness: splits, initial state, order, dropout
  c.parallel = "jit"                # "jit": one program on a mesh; "pmap": one replica a device
  c.platform = ""                   # "": whatever JAX finds; "cpu" | "gpu": refuse anything else

  c.data = _D()
  c.data.cohort = "simulate"        # a module of crl_jax/data with build(config) -> Cohort
  c.data.root = ""                  # folder of the database's published files; "" where the cohort
                                    # needs none
  c.data.protocol = "honest"        # "honest": only what was recorded before the row's time;
                                    # "paper": one row a patient
  c.data.encoding = "utf-8"         # of the csv.gz files: "utf-8" | "latin-1"
  c.data.memory_limit = "4GB"       # what DuckDB may hold in memory; it spills to disk past that
  c.data.spill = ""                 # folder for what does not fit; "": the system's temporary one
  c.data.cache = "auto"             # folder that keeps prepared cohorts, as confidential as the
                                    # files; "auto": $CRL_JAX_CACHE or ~/.cache/crl_jax; "": none
  c.data.engine = "duckdb"          # what reads MIMIC-IV's tables: "duckdb" | "bigquery" | "spark"

  c.data.simulate = _D()            # the simulated cohort (spec: x_m = A_m U + sigma_m eps, ...)
  c.data.simulate.rows = 6000       # number of rows, one per patient
  c.data.simulate.world = 0         # seed of the world: loadings, policy, risks, effects; the
                                    # patients come from c.seed
  c.data.simulate.modalities = ("structured", "image", "discharge", "radiology")   # M names
  c.data.simulate.sizes = (64, 1376, 768, 768)            # width of x_m, as the real ones [paper]
  c.data.simulate.kinds = ()        # of x_m: "vector" | "series" | "image" (simulate_kinds.py), of
                                    # sizes variables, or pixels of a side; (): vectors
  c.data.simulate.steps = 24        # of a series at most, within 48 hours; at least a third
  c.data.simulate.cells = 0.3       # what is measured at a step depends on U, in log-odds per sd
  c.data.simulate.availability = (1.0, 0.261, 0.755, 0.85)  # mean of delta_m [paper]
  c.data.simulate.tasks = ("readmission", "icu", "mortality")   # names, T of them
  c.data.simulate.prevalence = (0.2, 0.25, 0.15)          # mean of y_t over the population, roughly
  c.data.simulate.latent = 8        # k, dimensions of the latent health U
  c.data.simulate.visible = (4, 5, 5, 5)                  # how many of them x_m shows; it is blind
                                                          # to the others
  c.data.simulate.noise = (1.5, 2.0, 2.0, 2.0)            # sigma_m, in standard deviations of one
                                                          # signal coordinate
  c.data.simulate.mechanism = "mmnar"                     # "mmnar" | "mar" (b_m on observed
                                                          # covariates) | "mcar" (rho = 0)
  c.data.simulate.rho = 1.0         # strength of the clinicians' dependence on what they see, in
                                    # log-odds per sd
  c.data.simulate.effect = 0.1      # gamma_t[p], the pattern's direct effect on the probability, is
                                    # uniform on +- this, then centred
  c.data.simulate.signal = 2.0      # sd of the main term of g_t(U), in log-odds
  c.data.simulate.interaction = 0.8  # size of the interaction in g_t, relative to the main term
  c.data.simulate.draws = 512       # points of the posterior per row for the Bayes-optimal
                                    # predictions; a power of two

  c.data.eicu = _D()                # the eICU-CRD cohort
  c.data.eicu.min_age = 18          # years, inclusive [paper]
  c.data.eicu.max_age = 89          # years, inclusive; "> 89" is older [paper]
  c.data.eicu.min_stay_hours = 12.0   # unit stay, inclusive [paper]
  c.data.eicu.max_stay_hours = 240.0  # unit stay, inclusive: 10 days [paper]
  c.data.eicu.prediction_hour = 24.0  # mortality is predicted this many hours after unit admission
                                      # (honest protocol)
  c.data.eicu.modality_missing = 0.8  # a virtual modality with a larger share of NaN features
                                      # counts as missing [paper]
  c.data.eicu.later_stay = "eligible"  # readmission: a later unit stay in the hospital stay that is
                                       # itself "eligible" by its length, or "any", or only a
                                       # "return" after a time outside the unit

  c.text = _D()                     # notes, read by a BERT
  c.text.model = ""                 # folder of a Hugging Face BERT (config.json, model.safetensors,
                                    # vocab.txt or tokenizer.json), Bio_ClinicalBERT for example
  c.text.window = 512               # tokens that BERT reads at once, its two marks included
  c.text.overlap = 64               # tokens at most that a window repeats of the one before
  c.text.max_windows = 64           # of a note; a longer one gives evenly spread windows
  c.text.pooling = "mean"           # a window's vector: "mean" over its tokens or that of "cls"; a
                                    # note's: the mean over windows, weighted by tokens
  c.text.batch_tokens = 8192        # tokens of one call of BERT
  c.text.precision = "float32"      # of BERT's arithmetic for embeddings: "float32" | "bfloat16"
  c.text.cache = ""                 # folder that keeps embeddings for all runs, as confidential as
                                    # the notes; "": text/ of $CRL_JAX_CACHE or ~/.cache/crl_jax
  c.text.finetune = False           # True: token ids are the input, BERT is trained with the rest
  c.text.finetune_windows = 4       # windows of a row that training sees, evenly spread
  c.text.learning_rate = 0.1        # BERT's learning rate, times the phase's
  c.text.dropout = 0.1              # of BERT's hidden states in training
  c.text.checkpoint = True          # compute BERT's layers again in the backward pass instead of
                                    # keeping their states

  c.data.mimic = _D()               # the MIMIC-IV cohort
  c.data.mimic.min_age = 18         # years at admission, inclusive [paper]
  c.data.mimic.icu_stay = "single"  # the patient's first admission with an ICU stay: only where
                                    # that stay is its "single" one [paper], or whatever follows its
                                    # "first"
  c.data.mimic.prediction_hour = 48.0  # mortality is predicted so many hours after the hospital
                                       # admission (honest protocol)
  c.data.mimic.icu_before_row = True   # no mortality row for those who enter the ICU only after it:
                                       # at that hour nobody knows that they will
  c.data.mimic.bigquery_project = ""   # your Google Cloud project, which pays for the queries
  c.data.mimic.bigquery_version = "3.1"  # of the data sets physionet-data.mimiciv_<version>_*
  c.data.mimic.modalities = ("structured", "image", "discharge", "radiology")   # those to use
  c.data.mimic.image_pooling = "attention"  # several X-rays of a row: "attention" in the model, or
                                            # their "mean"
  c.data.mimic.max_images = 4       # the latest so many X-rays of a row are used

  c.splits = _D()
  c.splits.folds = 5                # patients are dealt into so many folds; member k is tested on k
  c.splits.validation = 0.15        # share of the other folds' patients held out: early stopping,
                                    # rectifier, thresholds

  c.members = _D()
  c.members.folds = 1               # how many of the folds are run, each as a member of its own
  c.members.seeds = 1               # how many initialisations per fold
  c.members.together = 0            # members that share an operation; 1: one after another; 0: one
                                    # after another on a single CPU, all at once elsewhere
  c.members.ensemble = False        # average a fold's seeds into one predictor, or report each

  c.preprocess = _D()               # fitted on the member's training rows only
  c.preprocess.scale = "standard"   # "standard": (x - mean) / sd; "quantile": to a normal by
                                    # empirical quantiles
  c.preprocess.quantiles = 64       # knots of the "quantile" scale
  c.preprocess.clip = 6.0           # scaled inputs are clipped to +- this many standard deviations
  c.preprocess.max_missing = 0.95   # features missing in a larger share of the rows that have the
                                    # modality are dropped
  c.preprocess.indicators = True    # a 0/1 input for each feature that is ever missing where its
                                    # modality is observed
  c.preprocess.sample = 50000       # training rows that scales, quantiles and components are fitted
                                    # on at most
  c.preprocess.components = 0       # modalities wider than this enter as so many principal
                                    # components; 0 is off
  c.preprocess.series_fill = "last"  # a series' value between measurements: the "last" one, or
                                     # "none", which is 0, the mean
  c.preprocess.before = "median"    # before the first measurement (series_fill "last"): the
                                    # training rows' "median", or the cohort's "normal" value

  c.encoders = _D()                 # what reads the inputs of a kind
  c.encoders.series = "gru"         # series: "gru" | "lstm" | "transformer" over its steps
  c.encoders.image = "resnet18"     # images: "resnet18" | "resnet34" | "resnet50", or the small
                                    # "resnet10"

  c.vision = _D()                   # images: pixels that a network reads
  c.vision.width = 64               # channels of its first stage, doubled by each further one
  c.vision.crop = 224               # pixels of a side that it sees, of smaller images all: anywhere
                                    # in training, the center in evaluation
  c.vision.mean = (0.485, 0.456, 0.406)   # of the channels, on 0..1 (ImageNet's); other than three
  c.vision.sd = (0.229, 0.224, 0.225)     # channels take the mean of these
  c.vision.rotation = 45.0          # degrees that training rotates an image by at most, either way
  c.vision.translation = 0.15       # ... and shifts it, relative to its side
  c.vision.scale = (0.85, 1.15)     # ... and enlarges it, from and to
  c.vision.flip = False             # ... and mirrors every other one, left to right

  c.model = _D()                    # what models share; those of one alone are model.<name>, in
                                    # models/settings.py
  c.model.name = model or "crl_mmnar"   # a key of crl_jax.models.MODELS
  c.model.width = 128               # D, of tokens, representation and missingness embedding [paper]
  c.model.heads = 8                 # attention heads; divides width [paper]
  c.model.layers = 1                # fusion blocks
  c.model.dropout = 0.2             # of encoders, fusion and heads [paper]
  c.model.input_dropout = 0.0       # share of input features hidden per row and step
  c.model.pooling = "attention"     # of a row's set (its images, its windows of text): learned
                                    # "attention", or the "mean"
  c.model[c.model.name] = models.entry(c.model.name).settings()

  c.loss = _D()
  c.loss.tasks = _D()               # per task: weight w_t, focal alpha_t and gamma_t
  c.loss.tasks.default = _D(dict(weight=1.0, alpha=0.5, gamma=0.0))   # tasks not named below
  c.loss.deeper = ()                # tasks whose head is one layer deeper

  c.train = _D()
  c.train.batch_size = 32           # rows per step, over all devices [paper]
  c.train.microbatches = 1          # parts of a batch whose activations are in memory one at a
                                    # time; same losses, one more forward pass
  c.train.precision = "float32"     # of the arithmetic: "float32" | "bfloat16"; parameters, losses
                                    # and evaluation are float32
  c.train.data = "auto"             # "resident" on the devices, "streamed" from the host's (memory-
                                    # mapped) cohort, or whichever fits
  c.train.resident_gb = 0.0         # GiB that resident data may take; 0: half of the device
  c.train.weight_decay = 1e-5       # AdamW [paper]
  c.train.clip_norm = 1.0           # global gradient norm [paper]
  c.train.ema = 0.0                 # decay per step of the averaged parameters that are evaluated
                                    # and kept; 0 is off
  c.train.non_finite_steps = 3      # stop after this many consecutive steps with a non-finite loss
                                    # or gradient
  c.train.pretrain = _D()           # phase 1, self-supervised
  c.train.pretrain.epochs = 20
  c.train.pretrain.learning_rate = 1e-4
  c.train.pretrain.weights = _D(dict(prediction=0.0, reconstruction=1.0, contrastive=0.3,
                                     missingness=0.5, pattern=0.0))
  c.train.joint = _D()              # phase 2, all losses, early stopping
  c.train.joint.epochs = 100
  c.train.joint.learning_rate = 2e-4
  c.train.joint.weights = _D(dict(prediction=1.0, reconstruction=0.2, contrastive=0.15,
                                  missingness=0.5, pattern=0.0))
  c.train.joint.patience = 30       # epochs without better validation loss that end phase 2
                                    # [paper]; 0: all epochs, and the last parameters are kept
  c.train.monitor = "loss"          # what early stopping follows in validation: "loss" | "auroc"

  c.rectifier = _D()
  c.rectifier.enabled = True        # off: p_<task> equals p_base_<task>
  c.rectifier.folds = 5             # K >= 2 of the cross-fitting among the validation patients
  c.rectifier.scale = "probability"  # gamma added to the "probability" or to its "logit"
  c.rectifier.shrinkage = True      # empirical-Bayes shrinkage of gamma toward the task's mean
  c.rectifier.thresholds = (0.0, 0.01, 0.02, 0.04, 0.08)   # candidates, in units of scale; "no
                                                           # correction" competes too

  c.headline = _D()                 # the predictor that a report leads with, from validation rows
  c.headline.stack = True           # the method's stack with logistic regression and boosting
                                    # competes with the method alone
  c.headline.calibrate = True       # temperature and Platt scaling compete with none
  c.headline.folds = 5              # of the cross-fitting among the validation patients

  c.evaluate = _D()
  c.evaluate.bootstrap = 1000       # patient-cluster resamples of every 95% interval; of 10,000
                                    # patients or more: see statistics/bootstrap.py
  c.evaluate.bins = 10              # equal-mass bins of the calibration error
  c.evaluate.yardsticks = True      # logistic regression, boosting, forest on the same rows
  c.evaluate.explain = 0            # test rows whose predictions are explained (Shapley values over
                                    # modalities) in the report; 0 is off
  c.evaluate.min_cell = 10          # patterns with fewer rows are pooled in printed and HTML
                                    # tables; subgroups with fewer are suppressed
  c.evaluate.sensitivity = 0.8      # share of the positive validation rows that the operating point
                                    # flags at least
  c.evaluate.benefit = 0.5          # decision curves go from a threshold of 0.01 to this
  c.evaluate.alpha = 0.1            # conformal sets miss the outcome of about this share of the
                                    # patients of a frequent pattern, and of all rare ones together
  c.evaluate.by_class = True        # conformal sets cover those with the outcome as those without
  c.evaluate.calibrate = 30         # calibration patients that a pattern needs for sets of its own;
                                    # rarer ones share theirs
  c.evaluate.permutations = 200     # of subgroup labels: the gap of chance; up to ten times as many
  c.evaluate.informative = True     # is the missingness informative? One pass over the cohort

  c.policy = _D()                   # a study of treatment policies (crl_jax.policy.main); no
                                    # training of a model reads these
  c.policy.cohort = "simsum"        # "simsum" | "mmnar", simulated, data.simulate.rows of them |
                                    # "semisynthetic", on the inputs of data.cohort | "saved", a
                                    # folder of policy.data.save() at data.root
  c.policy.world = ""               # of simsum: "" or missing not at random as in "A" | "B" | "C"
  c.policy.xi = 0.0                 # of mmnar: sd of what the patterns add to the effect
  c.policy.semisynthetic = _D()     # simulated treatment and outcome on real inputs
  c.policy.semisynthetic.features = ()    # the confounders, "modality/feature" each
  c.policy.semisynthetic.align = 0.5      # minus the correlation of risk and effect, in [-1, 1]
  c.policy.semisynthetic.overlap = 1.0    # the smaller, the more certain who is treated
  c.policy.semisynthetic.share = 0.4      # of the rows that are treated
  c.policy.split = "patients"       # a fifth of the "patients" is the test; "paper": the last
                                    # tenth of the rows
  c.policy.train_share = 0.7        # of all rows, the training rows of split "paper"
  c.policy.components = 64          # principal components of wider modalities; 0 is off
  c.policy.hide = ()                # modalities hidden from phi, for ablations
  c.policy.nuisances = "net"        # of e, mu_0, mu_1: "net" | "linear" | "boosting"
  c.policy.nuisance_inputs = "x+pattern"   # "x": the annotations | "x+pattern" | "x+phi" | "phi"
  c.policy.folds = 5                # of cross-fitting; 1: scores on the rows of the fit [paper]
  c.policy.repeats = 1              # splits into folds; scores are medians over them
  c.policy.clip = 0.01              # the least that e and 1 - e are; the paper has 1e-3
  c.policy.trim = 0.0               # more than 0: rows with e outside (trim, 1 - trim) leave the
                                    # estimand
  c.policy.outcome_loss = "auto"    # log-loss of a binary outcome, else squares; always "mse"
                                    # [paper]
  c.policy.net = _D()
  c.policy.net.width = 64           # of the hidden layers [paper]
  c.policy.net.learning_rate = 5e-4  # of Adam [paper]
  c.policy.net.weight_decay = 0.0   # of Adam [paper]
  c.policy.net.batch_size = 128     # rows of a step [paper]
  c.policy.net.epochs = 50          # at most [paper]
  c.policy.net.patience = 5         # epochs without a lower validation loss that end a network
                                    # [paper]
  c.policy.annotation_missing = "indicators"   # gaps of annotations: zeros and "indicators" |
                                    # "complete" rows only | "refuse"
  c.policy.sampling = "none"        # rows that nobody annotated: left out | "ipw" | "aipw"
  c.policy.effects = "net"          # what effects are learned by: "net" | "linear"
  c.policy.rectify_effects = True   # correct effects by pattern where that helps on rows left out
  c.policy.budgets = (0.1, 0.2, 0.3, 0.5)   # shares of patients that tables speak of
  c.policy.gammas = (1.0, 1.2, 1.5, 2.0)    # strengths of an unmeasured confounder

  c.checkpoint = _D()
  c.checkpoint.every_epochs = 5     # epochs between saves
  c.checkpoint.keep = 2             # saves kept per member
  return c.lock()


def paper_tasks(config):
  """Names the paper's three tasks in `config`, with their losses, as the config of another cohort
  names its own. Returns it. [paper]"""
  with config.unlocked():
    for name, weight in dict(readmission=1.2, icu=1.0, mortality=1.5).items():
      config.loss.tasks[name] = _D(dict(weight=weight, alpha=0.5, gamma=0.5))
    config.loss.deeper = ("mortality",)
  return config


def as_dict(config):
  """Returns `config` as plain JSON types, tuples as lists."""
  return json.loads(config.to_json())


def task_losses(config, tasks):
  """Returns (alpha, gamma, weight), each a list over `tasks`; tasks not named in config.loss.tasks
  get the default."""
  chosen = [config.loss.tasks[t if t in config.loss.tasks else "default"] for t in tasks]
  return tuple([float(task[key]) for task in chosen] for key in ("alpha", "gamma", "weight"))


# The settings that are folders: where a config is used, '~' in them is the home folder.
PATHS = ("data.root", "data.spill", "data.cache", "text.model", "text.cache")

# What settings may be, and what numbers are at least.
_CHOICES = {
    "parallel": ("jit", "pmap"), "platform": ("", "cpu", "gpu", "tpu"),
    "data.protocol": ("honest", "paper"), "data.engine": ("duckdb", "bigquery", "spark"),
    "data.mimic.icu_stay": ("single", "first"), "data.mimic.image_pooling": ("attention", "mean"),
    "preprocess.series_fill": ("last", "none"), "preprocess.before": ("median", "normal"),
    "encoders.series": ("gru", "lstm", "transformer"),
    "encoders.image": ("resnet10", "resnet18", "resnet34", "resnet50"),
    "preprocess.scale": ("standard", "quantile"), "model.pooling": ("attention", "mean"),
    "text.pooling": ("mean", "cls"),
    "text.precision": ("float32", "bfloat16"), "train.precision": ("float32", "bfloat16"),
    "train.monitor": ("loss", "auroc"), "train.data": ("auto", "resident", "streamed"),
    "rectifier.scale": ("probability", "logit"),
    "policy.cohort": ("simsum", "mmnar", "semisynthetic", "saved"),
    "policy.world": ("", "A", "B", "C"), "policy.split": ("patients", "paper"),
    "policy.nuisances": ("net", "linear", "boosting"),
    "policy.nuisance_inputs": ("x", "x+pattern", "x+phi", "phi"),
    "policy.outcome_loss": ("auto", "mse"), "policy.effects": ("net", "linear"),
    "policy.annotation_missing": ("indicators", "complete", "refuse"),
    "policy.sampling": ("none", "ipw", "aipw"),
    **{f"model.{key}": names for key, names in models.settings.CHOICES.items()}}
_POSITIVE = ("preprocess.clip", "train.clip_norm",
             *(f"model.{key}" for key in models.settings.POSITIVE))
_LEAST = {"model.width": 1, "model.heads": 1, "model.layers": 1, "train.joint.epochs": 0,
          "members.together": 0, "preprocess.quantiles": 2, "preprocess.sample": 1,
          "preprocess.components": 0, "vision.width": 1, "vision.crop": 1, "vision.rotation": 0,
          "vision.translation": 0, "train.batch_size": 1, "train.non_finite_steps": 1,
          "train.weight_decay": 0, "train.pretrain.learning_rate": 0, "train.pretrain.epochs": 0,
          "train.joint.learning_rate": 0, "checkpoint.every_epochs": 1, "checkpoint.keep": 1,
          "text.max_windows": 1, "text.finetune_windows": 1, "text.batch_tokens": 1,
          "evaluate.explain": 0, "evaluate.min_cell": 0, "evaluate.bootstrap": 1,
          "evaluate.bins": 1, "evaluate.calibrate": 1, "evaluate.permutations": 1,
          "splits.folds": 2, "rectifier.folds": 2, "headline.folds": 2,
          "train.joint.patience": 0, "members.seeds": 1,
          "policy.xi": 0, "policy.components": 0, "policy.folds": 1, "policy.repeats": 1,
          "policy.trim": 0, "policy.net.width": 1, "policy.net.learning_rate": 0,
          "policy.net.weight_decay": 0, "policy.net.batch_size": 1, "policy.net.epochs": 1,
          "policy.net.patience": 1}


def check(config):
  """Raises ValueError for the first setting that cannot work: which key, and what it may be."""
  def need(condition, message):
    if not condition:
      raise ValueError(f"config.{message}")
  values, usual = _flat(config.to_dict()), default(config.model.name)
  for key in unknown(values):   # a config file may set any name
    need(False, f"{key} is no setting. Did you mean '{suggestion(key, usual)}'?")
  need(config.model.keys() == usual.model.keys(),
       f"model.name is '{config.model.name}', and the settings are not that model's: choose it "
       f"with --config=FILE:{config.model.name}.")
  if {"weights", "stages"} & set(usual.model[config.model.name]):
    for phase in ("pretrain", "joint"):
      need(config.train[phase].weights == usual.train[phase].weights,
           f"train.{phase}.weights are CRL-MMNAR's: {config.model.name} does not read them.")
  for key, value in _flat(usual.to_dict()).items():
    if isinstance(value, tuple):
      value = value or ("mortality",)
      kind = type(value[0])
      need(all(isinstance(x, (int, float) if kind is float else kind) for x in values[key]),
           f"{key} is {values[key]}; a tuple of {kind.__name__}, as {value}.")
  for key, least in _LEAST.items():
    need(values[key] >= least, f"{key} is {values[key]}; at least {least}.")
  for key in _POSITIVE:
    need(values.get(key, 1) > 0, f"{key} is {values.get(key)}; more than 0.")
  for key in ("seed", "data.simulate.world"):
    need(0 <= values[key] < 2**31, f"{key} is {values[key]}; from 0 to {2**31 - 1}.")
  for key, names in _CHOICES.items():
    need(values.get(key, names[0]) in names,
         f"{key} is '{values.get(key)}'; it may be {' or '.join(map(repr, names))}.")
  need(config.text.window >= 8 and 0 <= config.text.overlap <= config.text.window // 2,
       f"text.window is {config.text.window} and text.overlap {config.text.overlap}; a window has "
       "at least 8 tokens and shares at most half of them.")
  need(config.text.learning_rate >= 0 and 0 <= config.text.dropout < 1,
       f"text.learning_rate ({config.text.learning_rate}) must not be negative and text.dropout "
       f"({config.text.dropout}) lie in [0, 1).")
  v = config.vision
  need(len(v.mean) == len(v.sd) == 3 and min(v.sd) > 0,
       f"vision.mean is {v.mean} and vision.sd {v.sd}; three numbers each, sd more than 0.")
  need(len(v.scale) == 2 and 0 < v.scale[0] <= v.scale[1],
       f"vision.scale is {v.scale}; two numbers more than 0, the smaller one first.")
  need(config.model.width % config.model.heads == 0,
       f"model.width {config.model.width} is not a multiple of model.heads {config.model.heads}.")
  need(1 <= config.members.folds <= config.splits.folds,
       f"members.folds is {config.members.folds}; it may be 1 to splits.folds "
       f"({config.splits.folds}).")
  need(0 < config.splits.validation < 1,
       f"splits.validation is {config.splits.validation}; a share between 0 and 1.")
  need(min(config.rectifier.thresholds, default=-1) >= 0,
       f"rectifier.thresholds is {config.rectifier.thresholds}; one or more sizes of 0 or more.")
  for key in ("sensitivity", "benefit", "alpha"):
    need(0 < config.evaluate[key] < 1,
         f"evaluate.{key} is {config.evaluate[key]}; a share between 0 and 1.")
  need(config.train.data != "streamed" or config.parallel == "jit",
       "train.data 'streamed' needs config.parallel = 'jit'.")
  need(config.train.microbatches >= 1 and
       config.train.batch_size % config.train.microbatches == 0,
       f"train.microbatches is {config.train.microbatches}; it must divide train.batch_size "
       f"({config.train.batch_size}).")
  for key in ("dropout", "input_dropout"):
    need(0 <= config.model[key] < 1, f"model.{key} is {config.model[key]}; a share in [0, 1).")
  need(0 <= config.train.ema < 1, f"train.ema is {config.train.ema}; a decay in [0, 1).")
  for name, task in config.loss.tasks.items():
    need(0 < task.alpha < 1 and task.gamma >= 0,
         f"loss.tasks.{name}: alpha must lie in (0, 1), gamma be >= 0.")
  need(config.train.pretrain.epochs + config.train.joint.epochs > 0,
       "train: both phases have 0 epochs.")
  _check_policy(config.policy, need)
  return config


def _check_policy(c, need):
  need(0 < c.clip < 0.5 and c.trim < 0.5,
       f"policy.clip is {c.clip} and policy.trim {c.trim}; probabilities below 0.5, clip above 0.")
  need(0 < c.train_share <= 0.9, f"policy.train_share is {c.train_share}; in (0, 0.9].")
  need(len(c.budgets) > 0 and all(0 < q < 1 for q in c.budgets),
       f"policy.budgets is {c.budgets}; one or more shares in (0, 1).")
  need(len(c.gammas) > 0 and min(c.gammas) >= 1,
       f"policy.gammas is {c.gammas}; one or more strengths of 1 or more.")
  need(c.folds > 1 or c.nuisances == "net",
       f"policy.folds 1 is the paper's way with networks, not with policy.nuisances "
       f"'{c.nuisances}': at least 2 folds.")


def expanded(config):
  """Returns a locked copy of `config` with home folders in its PATHS, see files.expanded(). Raises
  ValueError naming the key."""
  config = config.copy_and_resolve_references()
  for key in PATHS:
    node, last = _node(config, key), key.split(".")[-1]
    try:
      node[last] = files.expanded(node[last])
    except ValueError as error:
      raise ValueError(f"config.{key} is {error}") from None
  return config.lock()


# Settings that say how fast or where, and change no number; those of policies no run reads.
FREE = ("checkpoint.", "train.data:", "train.resident_gb:", "data.cache:", "data.spill:",
        "data.memory_limit:", "text.cache:", "platform:", "policy.")
# Settings that change nothing that is trained: those, the evaluation's and the headline's, where
# the data lie, which the data's own fingerprint tells better.
UNTRAINED = FREE + ("evaluate.", "headline.", "data.root:", "text.model:")


def difference(old, new, but=()):
  """Lines 'key: old -> new' where two plain-dict configs differ, `but` those that start so; empty
  when they are the same."""
  a, b = _flat(old), _flat(new)
  lines = (f"{key}: {a.get(key, 'absent')!r} -> {b.get(key, 'absent')!r}"
           for key in sorted(a.keys() | b.keys()) if a.get(key, _flat) != b.get(key, _flat))
  return [line for line in lines if not line.startswith(but)]


# Settings that came after 0.2.0: a run from before has none of them, and at their defaults they
# change no number of what it trained.
LATER = ("encoders.", "vision.", "headline.", "preprocess.series_fill", "preprocess.before",
         "data.simulate.kinds", "data.simulate.steps", "data.simulate.cells",
         "evaluate.by_class", "model.crl_mmnar.pattern_term")


def _settled(tree):
  """`tree` without those LATER settings that are at their defaults."""
  usual = _flat(as_dict(default()))
  def kept(node, at=""):
    found = {key: kept(value, f"{at}{key}.") if isinstance(value, dict) else value
             for key, value in node.items()}
    return {key: value for key, value in found.items()
            if not f"{at}{key}.".startswith(LATER) or value not in ({}, usual.get(f"{at}{key}"))}
  return kept(tree)


def digest(tree):
  """SHA-256 of the settings that what was trained depends on; `tree` as as_dict() gives it, or as
  config.json of any version holds it."""
  tree = _settled(tree)
  model = dict(tree["model"])
  model |= model.pop(model["name"], {})   # as up to 0.2.0, whose checkpoints are gone on with
  lines = difference({}, tree | {"model": model}, UNTRAINED)
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def identity(config):
  """SHA-256 of a run's settings, those of policies left out, which no run reads."""
  tree = {key: value for key, value in _settled(as_dict(config)).items() if key != "policy"}
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def suggestion(key, config):
  """The key of `config`, or of any model's settings, most like the mistyped `key`, those of the
  same part and last name first, then those of the same last name; or ''."""
  known = _every() | _flat(config.to_dict())
  ends = lambda one: (one.split(".")[0], one.split(".")[-1])
  alike = [one for one in known if ends(one) == ends(key)]
  same = [one for one in known if ends(one)[1] == ends(key)[1]]
  return next(iter(difflib.get_close_matches(key, alike or same or known, 1, 0.5)), "")


def _every():
  """The flat default tree, with the settings of all models."""
  own = {name: about.settings().to_dict() for name, about in models.MODELS.items()}
  return _flat(default().to_dict()) | _flat(own, "model.")


def _flat(tree, prefix=""):
  items = {}
  for key, value in tree.items():
    items |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
  return items


def _node(config, key):
  """The part of the tree in which the last name of the dotted `key` stands."""
  for part in key.split(".")[:-1]:
    config = config[part]
  return config


def unknown(keys):
  """Those of `keys` ('train.batch_size') that no config has; under loss.tasks a config may name
  tasks of its own."""
  known = _every()
  task = lambda key: (key.startswith("loss.tasks.") and
                      key.split(".")[-1] in ("weight", "alpha", "gamma"))
  return [key for key in keys if key not in known and not task(key)]


def override(config, pairs):
  """Returns a locked copy of `config` with 'key=value' strings applied; see expanded().

  Raises ValueError naming the key where it is unknown or the value of another type.
  """
  config = config.copy_and_resolve_references()
  for pair in pairs:
    key, _, text = pair.partition("=")
    if key not in _flat(config.to_dict()):
      raise ValueError(f"Unknown setting '{key}'. Did you mean '{suggestion(key, config)}'?")
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = text   # a plain string
    node, last = _node(config, key), key.split(".")[-1]
    old = node[last]
    if key == "model.name":   # with its own settings
      with config.unlocked():
        del config.model[old]
        config.model[text] = models.entry(text).settings()
    try:
      node[last] = (text if isinstance(old, str) else
                    float(value) if isinstance(old, float) else value)
    except (TypeError, ValueError):
      raise ValueError(f"Setting '{key}' is '{text}'; it must be of type {type(old).__name__}, as "
                       f"{old!r}.") from None
  return expanded(config)


def current(tree):
  """A config.json of any version in today's form.

  Up to version 0.2.0 CRL-MMNAR's settings stood flat in `model`, whatever the model was, and there
  were no LATER ones.
  """
  tree = json.loads(json.dumps(tree))
  old, name = tree["model"], tree["model"]["name"]
  own = models.settings.crl_mmnar().keys() & old.keys()
  if own:
    kept = {key: old[key] for key in own} if name == "crl_mmnar" else {}
    tree["model"] = {key: old[key] for key in old.keys() - own} | {name: kept}
  for key, value in _flat(as_dict(default(name))).items():
    if key.startswith(LATER):
      node = tree
      for part in key.split(".")[:-1]:
        node = node.setdefault(part, {})
      node.setdefault(key.split(".")[-1], value)
  return tree


def from_dict(tree):
  """The locked config that as_dict() of this version wrote, or one that current() knows. Raises
  ValueError for a tree of another version, naming the keys."""
  tree = current(tree)
  config, flat = default(tree["model"]["name"]), _flat(tree)
  for key, value in _flat({"policy": config.policy.to_dict()}).items():
    flat.setdefault(key, value)   # runs older than them have none, and no run reads them
  unknown, absent = (flat.keys() - _flat(config.to_dict()).keys(),
                     _flat(config.to_dict()).keys() - flat.keys())
  # a config may name tasks of its own
  added = {key for key in unknown if key.startswith("loss.tasks.")}
  if unknown - added or absent:
    raise ValueError("config.json is of another version of crl_jax: unknown keys "
                     f"{sorted(unknown - added)}, absent keys {sorted(absent)}. Use the version "
                     "that made the run (data.json, 'versions').")
  with config.unlocked():
    for name in {key.split(".")[2] for key in added}:
      config.loss.tasks[name] = config.loss.tasks.default.copy_and_resolve_references()
    for key, value in flat.items():
      node, last = _node(config, key), key.split(".")[-1]
      node[last] = type(node[last])(value)
  return config
