"""The same model, losses and optimizer step in plain PyTorch, for experiments/engine_benchmark.py
only: written as one would, batched, with the whole cohort in memory as tensors.

tests/experiments/test_torch_reference.py copies the Flax parameters into it and compares the loss
and the parameters after a step.
"""

import torch
from torch import nn
from torch.nn import functional as F

from crl_jax.models import settings

_EPS = 1e-6   # of LayerNorm, as in Flax


class Encoder(nn.Sequential):
  """(B, F) -> (B, D)."""

  def __init__(self, features, width, dropout):
    layers = []
    for out in (2 * width, width):
      layers += [nn.Linear(features, out), nn.LayerNorm(out, _EPS), nn.ReLU(), nn.Dropout(dropout)]
      features = out
    super().__init__(*layers, nn.Linear(width, width), nn.LayerNorm(width, _EPS))


class Fusion(nn.Module):
  """Masked attention over S tokens of V views of each row -> (B, V, D)."""

  def __init__(self, width, heads, dropout):
    super().__init__()
    self.heads = heads
    self.query_key = nn.Linear(width, 2 * width, bias=False)
    self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
    self.norms = nn.ModuleList(nn.LayerNorm(width, _EPS) for _ in range(2))
    self.forward_ = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(),
                                  nn.Linear(2 * width, width))
    self.dropout = nn.Dropout(dropout)

  def forward(self, tokens_BxSxD, visible_BxVxS):
    B, V, S = visible_BxVxS.shape
    x = (tokens_BxSxD[:, None] * visible_BxVxS[..., None]).flatten(0, 1)
    split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    q, k = (split(part) for part in self.query_key(x).chunk(2, -1))
    mask = visible_BxVxS.reshape(B * V, 1, 1, S)
    mixed = F.scaled_dot_product_attention(q, k, split(self.value(x)), mask)
    mixed = self.output(mixed.transpose(1, 2).flatten(2))
    x = self.norms[0](x + self.dropout(mixed))
    x = self.norms[1](x + self.dropout(self.forward_(x)))
    seen = visible_BxVxS.reshape(B * V, S, 1).to(x.dtype)
    return ((x * seen).sum(1) / seen.sum(1)).unflatten(0, (B, V))


class CrlMmnar(nn.Module):
  """configs of the paper's full method: conditioning, reconstruction and InfoNCE, one fusion layer,
  vector inputs."""

  def __init__(self, config, shapes, tasks, deeper):
    """config: models.settings.chosen(); shapes: modality -> (F,); tasks: names; deeper: those with one more
    layer."""
    super().__init__()
    D, M, drop = config.width, len(shapes), config.dropout
    self.hide = config.hide
    self.encoders = nn.ModuleDict({m: Encoder(shape[0], D, drop) for m, shape in shapes.items()})
    self.missingness = nn.Sequential(nn.Linear(M, D), nn.ReLU(), nn.Linear(D, D))
    self.pattern = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, M))
    self.gate = nn.Linear(D, M * D)
    self.fusion = Fusion(D, config.heads, drop)
    self.decoders = nn.ModuleDict({
        m: nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D)) for m in shapes})
    hidden = lambda: (nn.Linear(D, D), nn.ReLU(), nn.Dropout(drop))
    self.heads = nn.ModuleDict({
        t: nn.Sequential(*hidden(), *(hidden() if t in deeper else ()), nn.Linear(D, 1))
        for t in tasks})

  def forward(self, inputs, observed_BxM):
    """Returns a dict: logits (B, T), pattern logits and rec_weight (B, M), embeddings and decoded
    (B, M, D)."""
    B, M = observed_BxM.shape
    seen_BxM = observed_BxM.float()
    e_BxMxD = torch.stack([self.encoders[m](x) for m, x in inputs.items()], 1)
    z = self.missingness(2 * seen_BxM - 1)
    gated = torch.sigmoid(self.gate(z)).unflatten(-1, (M, -1)) * e_BxMxD
    tokens = torch.cat([gated, z[:, None]], 1)

    if self.hide == "all":
      hidden_BxHxM = torch.eye(M, dtype=bool, device=z.device).expand(B, M, M)
    else:
      score = torch.rand(B, M, device=z.device).masked_fill(~observed_BxM, -1)
      hidden_BxHxM = (F.one_hot(score.argmax(1), M).bool() & observed_BxM)[:, None]
    visible_BxVxM = torch.cat([observed_BxM[:, None], observed_BxM[:, None] & ~hidden_BxHxM], 1)
    always = torch.ones_like(visible_BxVxM[..., :1])
    h_BxVxD = self.fusion(tokens, torch.cat([visible_BxVxM, always], -1))

    h_without = h_BxVxD[:, 1:].expand(B, M, -1)
    decoded = torch.stack([self.decoders[m](h_without[:, i]) for i, m in enumerate(inputs)], 1)
    eligible = seen_BxM * (seen_BxM.sum(1, keepdim=True) > 1)
    weight = eligible
    if self.hide == "one":
      weight = eligible * hidden_BxHxM[:, 0] * seen_BxM.sum(1, keepdim=True)
    return dict(
        logits=torch.cat([head(h_BxVxD[:, 0]) for head in self.heads.values()], 1),
        pattern=self.pattern(z), embeddings=e_BxMxD, decoded=decoded, rec_weight=weight,
        rec_count=eligible)


def total_loss(out, observed, labels, patient, alpha, gamma, task_weight, weights, temperature):
  """The joint phase's loss, (): models/parts/losses.py term by term. alpha, gamma and
    task_weight: (T,)."""
  defined = ~labels.isnan()
  y = labels.nan_to_num()
  log_p, log_q = F.logsigmoid(out["logits"]), F.logsigmoid(-out["logits"])
  focal = -(alpha * y * torch.exp(gamma * log_q) * log_p +
            (1 - alpha) * (1 - y) * torch.exp(gamma * log_p) * log_q)
  prediction = ((focal * defined).sum(0) / defined.sum(0).clamp(min=1) * task_weight).sum()

  missingness = F.binary_cross_entropy_with_logits(out["pattern"], observed.float())

  target = out["embeddings"].detach()
  error = (out["decoded"] - target).square().mean(-1)
  reconstruction = ((error * out["rec_weight"]).sum(0) /
                    out["rec_count"].sum(0).clamp(min=1)).sum()

  present = out["rec_weight"] > 0
  unit = lambda x: F.normalize(x * present[..., None], dim=-1, eps=1e-2)
  s_MxBxB = torch.einsum(
      "bmd,gmd->mbg", unit(out["embeddings"]), unit(out["decoded"])) / temperature
  itself = torch.eye(len(patient), dtype=bool, device=patient.device)
  allowed = present.T[:, None] & (patient[:, None] != patient) | itself
  s_MxBxB = s_MxBxB.masked_fill(~allowed, float("-inf"))
  own = s_MxBxB.diagonal(dim1=1, dim2=2)
  nce = (s_MxBxB.logsumexp(-1) - own) * present.T
  contrastive = (nce.sum(1) / present.sum(0).clamp(min=1)).sum()
  return (weights["prediction"] * prediction + weights["missingness"] * missingness +
          weights["reconstruction"] * reconstruction + weights["contrastive"] * contrastive)


class Trainer:
  """A model, its AdamW and the cohort in memory."""

  def __init__(self, config, data, tasks, task_losses, device="cpu"):
    """
    Args:
      config: the whole tree; of the joint phase.
      data: dict of inputs (modality -> (N, F)), observed, labels, patient, NumPy.
      tasks: the T names.
      task_losses: alpha, gamma, weight of each.
      device: of torch.
    """
    put = lambda x: torch.as_tensor(x, device=device)
    self.inputs = {m: put(x) for m, x in data["inputs"].items()}
    self.observed, self.labels, self.patient = (
        put(data[name]) for name in ("observed", "labels", "patient"))
    shapes = {m: x.shape[1:] for m, x in data["inputs"].items()}
    own = settings.chosen(config)
    self.model = CrlMmnar(own, shapes, tasks, config.loss.deeper).to(device)
    self.device, self.clip_norm = device, config.train.clip_norm
    self.losses = (*(torch.tensor(v, device=device) for v in task_losses),
                   config.train.joint.weights.to_dict(), own.temperature)
    kernels = [p for p in self.model.parameters() if p.ndim == 2]
    rest = [p for p in self.model.parameters() if p.ndim != 2]
    self.optimizer = torch.optim.AdamW(
        [dict(params=kernels, weight_decay=config.train.weight_decay),
         dict(params=rest, weight_decay=0.0)], lr=config.train.joint.learning_rate, fused=True)

  def loss(self, rows):
    """The loss of the rows (B,) as a tensor."""
    inputs = {m: x[rows] for m, x in self.inputs.items()}
    observed = self.observed[rows]
    return total_loss(self.model(inputs, observed), observed, self.labels[rows],
                      self.patient[rows], *self.losses)

  def step(self, rows):
    """One update; returns its loss as a tensor."""
    self.optimizer.zero_grad(set_to_none=True)
    loss = self.loss(rows)
    loss.backward()
    nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
    self.optimizer.step()
    return loss.detach()

  def epoch(self, rows, batch_size):
    """Steps through the rows (R,) in random order; returns the mean loss."""
    self.model.train()
    rows = torch.as_tensor(rows, device=self.device)
    order = rows[torch.randperm(len(rows), device=self.device)]
    total = sum(self.step(batch) for batch in order.split(batch_size))
    return float(total) / -(-len(rows) // batch_size)
