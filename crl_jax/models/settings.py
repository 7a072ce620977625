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
  c.pattern_term = 0.0              # sd of the prior of gamma_t[p], the pattern's own term on the
                                    # logit beside z; 0: off
  c.pattern_head = False            # predict the pattern id from h (section C.6)
  return c


def lstm():
  c = _D()
  c.modality = ""                   # the series that is read; "": the cohort's first
  c.stacked = 2                     # LSTMs, one upon the other [code]
  c.bidirectional = True            # another of each from the last step to the first [code]
  c.project = True                  # a linear layer of every step before them [code]
  return c


def transformer():
  c = _D()
  c.modality = ""                   # the series that is read; "": the cohort's first
  return c


def resnet50():
  c = _D()
  c.modality = ""                   # what is read; "": the first image, or the first set or vector
                                    # where there is none
  c.depth = 50                      # layers of the network of images: 50 | 34 | 18 | 10
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
  c.share = 0.1                     # of the rows with less than two modalities, seen by the second
                                    # stage [paper: 0.1 for mortality, 0.2 for phenotypes]
  return c


def mmtm():
  c = _D()
  c.ratio = 4                       # M D / ratio * 2 is the size of what is squeezed [code]
  c.turns = True                    # a step for each modality's own answer, then one for all;
                                    # False: one step of all
  c.weights = _D()
  c.weights.prediction = 1.0        # all modalities together
  c.weights.only = 1.0              # what each says alone
  return c


def daft():
  c = _D()
  c.base = ""                       # the modality that the others transform; "": the first
  c.bottleneck = 0                  # size between; 0: a seventh of what goes in [code]
  return c


def mt():
  c = _D()
  c.tokens = 4                      # of each modality, beside its summary
  c.inside = 1                      # layers of attention inside modalities
  c.across = 1                      # layers across them, after those
  c.weights = _D(dict(single=1.0))  # of what each modality says alone, their mean
  return c


def shaspec():
  c = _D()
  c.drop = 0.5                      # rows and steps of the second stage whose modalities are hidden
                                    # in part
  c.weights = _D()
  c.weights.shared = 0.1            # that shared parts are alike [code]
  c.weights.domain = 0.02           # that own parts tell their modality [code]
  c.stages = _D()
  c.stages.warm = _D()
  c.stages.warm.epochs = 5          # of the first stage, which hides nothing
  c.stages.warm.learning_rate = 2e-4   # of it; the second stage's is train.joint.learning_rate
  return c


def drfuse():
  c = _D()
  c.weights = _D()
  c.weights.shared = 1.0            # what the united shared parts say alone
  c.weights.own = 1.0               # what each modality's own part says alone
  c.weights.jsd = 1.0               # that shared parts are alike
  c.weights.distinct = 1.0          # that a modality's two parts are not
  c.weights.rank = 1.0              # that attention follows what the parts cost alone
  return c


def cm_ae():
  c = _D()
  c.frozen = False                  # the second stage trains the heads alone
  c.weights = _D()
  c.weights.reconstruction = 1.0    # of tokens, in the second stage
  c.stages = _D()
  c.stages.autoencode = _D()
  c.stages.autoencode.epochs = 20   # of the first stage, which sees no outcomes
  c.stages.autoencode.learning_rate = 2e-4   # of it; the second's is train.joint.learning_rate
  return c


def missmodal():
  c = _D()
  c.temperature = 0.1               # of the contrast
  c.weights = _D()
  c.weights.contrast = 0.1          # of a row's part with its whole, among other rows
  c.weights.distance = 0.1          # of the part from the whole
  c.weights.semantic = 1.0          # what the part says
  return c


def gru_d():
  c = _D()
  c.hidden = 64                     # size of the GRU's state
  return c


def raindrop():
  c = _D()
  c.observation = 4                 # size of what a measurement says [code]
  c.sensor = 16                     # size of a variable's own vector, by which it is attended to
  c.rounds = 2                      # of messages [code]
  c.keep = 0.5                      # share of the edges that stay after a round [code]
  c.weights = _D()
  c.weights.prediction = 1.0        # of outcomes
  c.weights.similar = 0.02          # that rows have alike edges
  return c


def inforeg():
  c = _D()
  c.scale = 0.95                    # of the pull toward the epoch's start
  c.window = 10                     # epochs whose traces tell whether information still grows
  c.least = 0.05                    # growth of their sum, relative, that keeps the window open
  c.weights = _D()
  c.weights.prediction = 1.0        # all modalities together
  c.weights.part = 1.0              # what each says alone
  return c


def aug():
  c = _D()
  c.most = 10                       # layers that a modality's classifier gets at most
  c.every = 0                       # epochs from one to the next; 0: a tenth of
                                    # train.joint.epochs [code]
  c.margin = 0.01                   # by which the best modality must exceed the weakest, relative
  c.residual = 0.5                  # how much less a layer learns where those before it are right
  return c


def m3care():
  c = _D()
  c.support = 256                   # training rows that every row meets; an export holds what the
                                    # row part makes of them
  c.weights = _D()
  c.weights.prediction = 1.0        # of outcomes
  c.weights.stability = 0.01        # that the compared embeddings keep their size
  return c


def grape():
  c = _D()
  c.node = 64                       # size of nodes and edges [code: 16, of scalar edges]
  c.rounds = 2                      # of messages [code]
  c.known = 0.7                     # share of the edges that a training step keeps [code]
  c.support = 256                   # training rows that every row meets; an export holds what the
                                    # row part makes of them
  c.weights = _D()
  c.weights.prediction = 1.0        # of outcomes
  c.weights.impute = 0.0            # of the edges that were left out
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
           "unified.subsets": ("singletons", "all"), "resnet50.depth": (10, 18, 34, 50)}
POSITIVE = ("lstm.stacked", "crl_mmnar.temperature", "missmodal.temperature", "mmtm.ratio",
            "mt.tokens", "mt.across", "m3care.support", "inforeg.window", "aug.most",
            "raindrop.observation", "raindrop.sensor", "raindrop.rounds", "raindrop.keep",
            "grape.node", "grape.rounds", "grape.known", "grape.support")
