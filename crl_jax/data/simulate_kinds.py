"""Series and images of the simulated world, and all that they say of the latent health U.

    series   x_lv = (A_v phi(t_l)) . U + sigma eps     phi: 1 for the first half of the dimensions
                                                       that it shows, t / 24 - 1 for the others
             P(measured_lv) = sigmoid(a_v + c_v . U)   clinicians look where they worry
    image    x = roll(U T, shift) + sigma eps          nobody is told the shift, one of SHIFTS

A level is in a series' mean; a slope is not. Bumps of different shifts do not overlap, so a linear
function of the pixels has about 1 / SHIFTS of the precision that one has that looks for them. Given
a shift, x is linear in U with Gaussian noise: a statistic and a precision say all, as of a vector;
and of the cells, how many of each variable were measured.
"""

import dataclasses

import numpy as np

HOURS = 48.0
SHIFTS = 9
_SHADES = 25.0   # of one standard deviation of a pixel, around 128
_BUMPS = 3       # of each dimension of U
_CLIMB, _NEWTON = 16, 4   # steps to a mode


def sigmoid(x):
  return 0.5 + 0.5 * np.tanh(0.5 * x)   # no overflow, and right at +-inf


@dataclasses.dataclass(frozen=True)
class Evidence:
  """What a modality says of U in each of n rows, were it observed.

  Attributes:
    statistic: (n, S, k) under each of S shifts, that of the image or the one there is.
    precision: (n, k, k).
    measured, unmeasured: (n, V) cells of each variable; V = 0 of an image.
  """
  statistic: np.ndarray
  precision: np.ndarray
  measured: np.ndarray
  unmeasured: np.ndarray


def joined(parts):
  """The Evidence of all rows, from that of some after the other."""
  names = [field.name for field in dataclasses.fields(Evidence)]
  return Evidence(**{name: np.concatenate([getattr(part, name) for part in parts])
                     for name in names})


@dataclasses.dataclass(frozen=True)
class Series:
  """Constants of a series of V variables: loading A (V, k), level (k,) bool, where phi is 1, noise
  sigma, steps at most, intercept a (V,), policy c (V, k)."""
  loading: np.ndarray
  level: np.ndarray
  noise: float
  steps: int
  intercept: np.ndarray
  policy: np.ndarray
  dtype = np.float32

  @property
  def shape(self):
    """Of one row's input."""
    return self.steps, 1 + len(self.loading)

  def draw(self, rng, u_nxk, out):
    """Fills `out` (n, L, 1 + V); returns the Evidence."""
    n, steps = len(out), self.steps
    exists = np.arange(steps) < rng.integers(-(-steps // 3), steps + 1, n)[:, None]
    time = np.sort(np.where(exists, rng.uniform(0, HOURS, (n, steps)), np.inf), 1)
    out[..., 0] = np.where(exists, time, np.nan)
    phi = self._phi(out[..., 0])
    value = np.einsum("nk,nlk,vk->nlv", u_nxk, phi, self.loading)
    value += self.noise * rng.standard_normal(value.shape, np.float32)
    p = sigmoid(self.intercept + u_nxk @ self.policy.T)[:, None]
    seen = (rng.random(value.shape, np.float32) < p) & exists[..., None]
    out[..., 1:] = np.where(seen, value, np.nan)
    each = np.einsum("vk,vj->vkj", self.loading, self.loading)
    weight = np.einsum("nlv,vkj->nlkj", seen.astype(np.float32), each)
    return Evidence(
        np.einsum("nlv,nlk,vk->nk", np.nan_to_num(out[..., 1:]), phi, self.loading,
                  optimize=True)[:, None] / self.noise**2,
        np.einsum("nlkj,nlk,nlj->nkj", weight, phi, phi) / self.noise**2,
        seen.sum(1), (~seen & exists[..., None]).sum(1))

  def _phi(self, time):
    return np.where(self.level, 1, np.nan_to_num(2 * time / HOURS - 1)[..., None]).astype(
        np.float32)


@dataclasses.dataclass(frozen=True)
class Image:
  """Constants of an image: template T (k, H, W), noise sigma, shifts (S, 2) in pixels."""
  template: np.ndarray
  noise: float
  shifts: np.ndarray
  dtype = np.uint8

  @property
  def shape(self):
    """Of one row's input."""
    return (*self.template.shape[1:], 1)

  def draw(self, rng, u_nxk, out):
    """Fills `out` (n, H, W, 1); returns the Evidence, of the shades as they are stored. That they
    are rounded and end at 5 sd is not accounted for: it is 3e-4 of the noise's variance."""
    sd = float(np.sqrt(1 + self.noise**2))
    which = rng.integers(len(self.shifts), size=len(out))
    noise = self.noise * rng.standard_normal(out.shape[:3], np.float32)
    flat = np.empty((len(self.shifts), len(out), u_nxk.shape[1]))
    for j, shift in enumerate(self.shifts):
      rows = which == j
      x = np.einsum("nk,khw->nhw", u_nxk[rows], np.roll(self.template, shift, (1, 2)))
      shade = np.rint(128 + _SHADES / sd * (x + noise[rows]))
      out[rows] = np.clip(shade, 0, 255).astype(np.uint8)[..., None]
    x = (out.reshape(len(out), -1).astype(np.float32) - 128) * (sd / _SHADES)
    for j, shift in enumerate(self.shifts):
      moved = np.roll(self.template, shift, (1, 2)).reshape(len(self.template), -1)
      flat[j] = x @ moved.T / self.noise**2
    whole = self.template.reshape(len(self.template), -1).astype(float)
    precision = np.broadcast_to(whole @ whole.T / self.noise**2, (len(out), *2 * whole.shape[:1]))
    none = np.zeros((len(out), 0), int)
    return Evidence(flat.transpose(1, 0, 2), precision, none, none)


def points(precision_nx1xkxk, m_nxJxk, c_Fxk, a_F, yes_nx1xF, no_nx1xF, z_Dxk):
  """Points of densities exp(m_j' U - U' Lambda U / 2) prod_f sigmoid(c_f U + a_f)^yes_f
  sigmoid(-c_f U - a_f)^no_f, which are log-concave: those `z_Dxk` of a standard normal, moved to
  the mode and scaled as the density is there.

  Returns:
    U (n, J, D, k) and the logs of their weights (n, J, D), up to one constant.
  """
  all_nx1xF = yes_nx1xF + no_nx1xF
  times = lambda a, b: (a @ b[..., None])[..., 0]
  precise = lambda each: precision_nx1xkxk + c_Fxk.T @ (each[..., None] * c_Fxk)

  def step(u_nxJxk, steady):
    """(U after a step to the mode, the precision of the density at U before it)."""
    p_nxJxF = sigmoid(u_nxJxk @ c_Fxk.T + a_F)
    slope = (m_nxJxk - times(precision_nx1xkxk, u_nxJxk)
             + (yes_nx1xF - all_nx1xF * p_nxJxF) @ c_Fxk)
    precise_nxJxkxk = precise(all_nx1xF * p_nxJxF * (1 - p_nxJxF))
    return u_nxJxk + times(steady if steady is not None else np.linalg.inv(precise_nxJxkxk),
                           slope), precise_nxJxkxk

  # p (1 - p) <= 1/4: such steps climb from anywhere, and near the mode Newton's are faster
  steady = np.linalg.inv(precise(all_nx1xF / 4))
  u_nxJxk = times(steady, m_nxJxk)
  for i in range(_CLIMB + _NEWTON):
    u_nxJxk, precise_nxJxkxk = step(u_nxJxk, steady if i < _CLIMB else None)
  spread = np.linalg.cholesky(np.linalg.inv(precise_nxJxkxk))
  u = u_nxJxk[:, :, None] + z_Dxk @ np.swapaxes(spread, -1, -2)
  h = u @ c_Fxk.T + a_F
  log = ((m_nxJxk[:, :, None] - 0.5 * u @ precision_nx1xkxk) * u).sum(axis=-1)
  # log sigmoid(-h) = log sigmoid(h) - h
  log -= (all_nx1xF[:, :, None] * np.logaddexp(0, -h) + no_nx1xF[:, :, None] * h).sum(axis=-1)
  normal = -0.5 * (z_Dxk**2).sum(axis=1) + 0.5 * np.linalg.slogdet(precise_nxJxkxk)[1][..., None]
  return u, log - normal


def series(rng, loading_Vxk, noise, steps, cells):
  """A Series; `cells`: sd of c_v . U, in log-odds."""
  visible = np.flatnonzero(loading_Vxk.any(0))
  level = np.isin(np.arange(loading_Vxk.shape[1]), visible[:-(-len(visible) // 2)])
  policy = rng.standard_normal(loading_Vxk.shape)
  policy *= cells / np.linalg.norm(policy, axis=1, keepdims=True)
  return Series(loading_Vxk, level, float(noise), int(steps),
                rng.uniform(-0.5, 1, len(loading_Vxk)).astype(np.float32),
                policy.astype(np.float32))


def image(rng, visible_k, side, noise):
  """An Image of side x side pixels that shows the dimensions `visible_k` (bool) of U."""
  place = np.arange(side)
  template = np.zeros((len(visible_k), side, side), np.float32)
  for d in np.flatnonzero(visible_k):
    for center in rng.uniform(0, side, (_BUMPS, 2)):
      apart = [(place - c + side / 2) % side - side / 2 for c in center]   # the image is a torus
      bump = [np.exp(-a**2 / (2 * (side / 16)**2)) for a in apart]
      template[d] += rng.choice([-1, 1]) * bump[0][:, None] * bump[1]
  template /= np.sqrt((template**2).sum(0).max())   # the strongest pixel has variance 1
  q = side // 3
  return Image(template, float(noise), np.array([(i, j) for i in (-q, 0, q) for j in (-q, 0, q)]))
