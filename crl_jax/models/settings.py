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


def chosen(config):
  """What the model of `config`, the whole tree, reads of it: the settings that models share and its
  own beside them."""
  c = config.model
  return ml_collections.FrozenConfigDict(
      {key: value for key, value in c.items() if key != c.name} | c[c.name].to_dict())


# What they may be, and the numbers that must be more than 0, for config.check().
CHOICES = {"crl_mmnar.hide": ("all", "one")}
POSITIVE = ("crl_mmnar.temperature",)
