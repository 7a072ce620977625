"""The settings that a model has alone: config.model.<name>, a function each, named by its line in
models.MODELS. What models share (width, dropout, ...) is in config.py. It loads no JAX."""

import ml_collections

_D = ml_collections.ConfigDict


def none():
  """Of a model that has none of its own."""
  return _D()


def crl_mmnar():
  c = _D()
  c.conditioning = True             # missingness embedding, gates and its token (off: masks only,
                                    # the "basic" ablation)
  c.reconstruction = True           # cross-modality reconstruction (InfoNCE needs it: off with it)
  c.contrastive = True              # InfoNCE between reconstruction and embedding
  c.hide = "all"                    # modalities hidden per row and step: "all" in turn, or "one" at
                                    # random (unbiased)
  c.stop_gradient = True            # reconstruction targets are constants
  c.temperature = 0.1               # tau of InfoNCE [paper]
  c.pattern_head = False            # predict the pattern id from h (section C.6)
  return c


def late_fusion():
  c = _D()
  c.fill = "zero"                   # what stands for a missing modality: "zero", or "absent", a
                                    # learned vector
  c.average = False                 # the mean of what each modality says alone, or one linear layer
                                    # of all
  return c


def early():
  c = _alone()
  c.paired = False                  # the second stage sees rows with all modalities alone
  return c


def unified():
  c = _D()
  c.subsets = "singletons"          # what a row teaches beside its own pattern: each of its
                                    # modalities alone, or "all" subsets (of up to three modalities)
  c.least = 20                      # training rows that a pattern needs for a head of its own
  return c


def medfuse_ri():
  c = _D()
  c.hidden = 512                    # size of the LSTM's state [paper]
  c.order = ()                      # modalities from first to last; (): the cohort's
  return c


def medfuse_pt():
  return _D(medfuse_ri().to_dict() | _alone().to_dict())


def medfuse():
  c = medfuse_pt()
  c.share = 0.1                     # of the rows with less than two modalities that the second stage
                                    # sees [paper: 0.1 for mortality, 0.2 for phenotypes]
  return c


def _alone():
  """Of a model whose first stage trains each encoder under a head of its own."""
  c = _D()
  c.stages = _D()
  c.stages.alone = _D()
  c.stages.alone.epochs = 20        # of the first stage
  c.stages.alone.learning_rate = 2e-4   # of it; the second stage's is train.joint.learning_rate
  return c


def chosen(config):
  """What the model of `config`, the whole tree, reads of it: the settings that models share and its
  own beside them."""
  c = config.model
  return ml_collections.FrozenConfigDict(
      {key: value for key, value in c.items() if key != c.name} | c[c.name].to_dict())


# What they may be, and the numbers that must be more than 0, for config.check().
CHOICES = {"crl_mmnar.hide": ("all", "one"), "late_fusion.fill": ("zero", "absent"),
           "unified.subsets": ("singletons", "all")}
POSITIVE = ("crl_mmnar.temperature",)
