"""BigGAN at 32 px in plain PyTorch: what benchmarks/train_step.py measures ours against.

Idiomatic and fast rather than clever: spectral norm by one power iteration per update on the raw
weights, as ours; convolutions left to oneDNN or cuDNN, in either memory layout; fused Adam. The
game is ours, too: hinge loss, D on real and fake in one forward, orthogonal penalty on G, averaged
weights. Not a training script: images and latents are noise.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Setup:
  """A network and a step: `channels_last` is the memory layout, `bfloat16` autocast's type."""

  ch: int = 32
  batch: int = 32
  d_steps: int = 1
  num_classes: int = 10
  z_dim: int = 80
  shared_dim: int = 128
  resolution: int = 32
  channels_last: bool = False
  bfloat16: bool = False
  device: str = 'cpu'


class Normalized:
  """The weights of a module divided by their largest singular value, kept as u and v buffers."""

  def __init__(self, module: nn.Module):
    self.names = [
      name for name, p in module.named_parameters() if p.ndim >= 2 and name != 'shared.weight'
    ]
    self.weights = dict(module.named_parameters())
    self.u = {
      name: F.normalize(torch.randn_like(self.weights[name].flatten(1)[:, 0]), dim=0)
      for name in self.names
    }
    self.v: dict[str, torch.Tensor] = {}
    self.iterate()

  @torch.no_grad()
  def iterate(self) -> None:
    """One power iteration on the current weights."""
    for name in self.names:
      w = self.weights[name].flatten(1)
      self.v[name] = F.normalize(w.T @ self.u[name], dim=0)
      self.u[name] = F.normalize(w @ self.v[name], dim=0)

  def __call__(self) -> dict[str, torch.Tensor]:
    """Return all weights, the normalised ones divided."""
    out = dict(self.weights)
    for name in self.names:
      w = self.weights[name]
      out[name] = w / (self.u[name] @ (w.flatten(1) @ self.v[name]))
    return out


class ConditionalNorm(nn.Module):
  def __init__(self, features: int, condition: int):
    super().__init__()
    self.gain = nn.Linear(condition, features, bias=False)
    self.bias = nn.Linear(condition, features, bias=False)

  def forward(self, x, c):
    x = F.batch_norm(x, None, None, training=True, eps=1e-4)
    return x * (1 + self.gain(c))[..., None, None] + self.bias(c)[..., None, None]


class GenBlock(nn.Module):
  def __init__(self, before: int, after: int, condition: int):
    super().__init__()
    self.bn1, self.bn2 = ConditionalNorm(before, condition), ConditionalNorm(after, condition)
    self.conv1, self.conv2 = (
      nn.Conv2d(before, after, 3, padding=1),
      nn.Conv2d(after, after, 3, padding=1),
    )
    self.conv_sc = nn.Conv2d(before, after, 1)

  def forward(self, x, c):
    h = F.interpolate(F.relu(self.bn1(x, c)), scale_factor=2)
    h = self.conv2(F.relu(self.bn2(self.conv1(h), c)))
    return h + F.interpolate(self.conv_sc(x), scale_factor=2)


class Generator(nn.Module):
  def __init__(self, s: Setup):
    super().__init__()
    width, condition = 4 * s.ch, s.shared_dim + s.z_dim // 4
    self.chunk, self.width = s.z_dim // 4, width
    self.shared = nn.Embedding(s.num_classes, s.shared_dim)
    self.linear = nn.Linear(self.chunk, 16 * width)
    self.blocks = nn.ModuleList(GenBlock(width, width, condition) for _ in range(3))
    self.bn, self.conv = nn.BatchNorm2d(width, eps=1e-4), nn.Conv2d(width, 3, 3, padding=1)

  def forward(self, z, y):
    first, *parts = z.split(self.chunk, 1)
    h = self.linear(first).view(-1, self.width, 4, 4)
    for block, part in zip(self.blocks, parts, strict=True):
      h = block(h, torch.cat([self.shared(y), part], 1))
    return torch.tanh(self.conv(F.relu(self.bn(h))))


class DiscBlock(nn.Module):
  def __init__(self, before: int, after: int, down: bool, first: bool):
    super().__init__()
    self.down, self.first = down, first
    self.conv1 = nn.Conv2d(before, after, 3, padding=1)
    self.conv2 = nn.Conv2d(after, after, 3, padding=1)
    self.conv_sc = nn.Conv2d(before, after, 1) if down or before != after else None

  def forward(self, x):
    pool = (lambda h: F.avg_pool2d(h, 2)) if self.down else (lambda h: h)
    h = x if self.first else F.relu(x)
    h = pool(self.conv2(F.relu(self.conv1(h))))
    if self.conv_sc is None:
      return h + x
    return h + (self.conv_sc(pool(x)) if self.first else pool(self.conv_sc(x)))


class Discriminator(nn.Module):
  def __init__(self, s: Setup):
    super().__init__()
    width = 4 * s.ch
    self.blocks = nn.Sequential(
      DiscBlock(3, width, True, True),
      DiscBlock(width, width, True, False),
      DiscBlock(width, width, False, False),
      DiscBlock(width, width, False, False),
    )
    self.linear, self.embed = nn.Linear(width, 1), nn.Embedding(s.num_classes, width)

  def forward(self, x, y):
    h = F.relu(self.blocks(x)).sum((2, 3))
    return self.linear(h)[:, 0] + (self.embed(y) * h).sum(1)


class Step:
  """Call it to do one step: `d_steps` updates of D, one of G."""

  def __init__(self, s: Setup):
    torch.manual_seed(0)
    self.s = s
    layout = torch.channels_last if s.channels_last else torch.contiguous_format
    self.gen, self.disc = (
      net(s).to(s.device, memory_format=layout) for net in (Generator, Discriminator)
    )
    self.ema = [p.detach().clone() for p in self.gen.parameters()]
    adam = lambda net, lr: torch.optim.Adam(
      net.parameters(), lr, betas=(0.0, 0.999), eps=1e-8, fused=True
    )
    self.gen_tx, self.disc_tx = adam(self.gen, 5e-5), adam(self.disc, 2e-4)
    self.gen_sn, self.disc_sn = Normalized(self.gen), Normalized(self.disc)
    images = torch.rand(s.batch, 3, s.resolution, s.resolution, device=s.device) * 2 - 1
    self.real = images.to(memory_format=layout)
    self.label = torch.arange(s.batch, device=s.device) % s.num_classes

  def fresh(self):
    s = self.s
    z = torch.randn(s.batch, s.z_dim, device=s.device)
    return z, torch.randint(s.num_classes, (s.batch,), device=s.device)

  def run(self, net, weights, *inputs):
    with torch.autocast(self.s.device, torch.bfloat16, enabled=self.s.bfloat16):
      return torch.func.functional_call(net, weights, inputs).float()

  def __call__(self) -> float:
    with torch.no_grad():
      gen = self.gen_sn()
    for _ in range(self.s.d_steps):
      z, y = self.fresh()
      with torch.no_grad():
        fake = self.run(self.gen, gen, z, y)
      both = torch.cat([self.real, fake]), torch.cat([self.label, y])
      real, fake = self.run(self.disc, self.disc_sn(), *both).chunk(2)
      loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
      self.disc_tx.zero_grad(set_to_none=True)
      loss.backward()
      self.disc_tx.step()
      self.disc_sn.iterate()
    z, y = self.fresh()
    with torch.no_grad():
      disc = self.disc_sn()
    loss = -self.run(self.disc, disc, self.run(self.gen, self.gen_sn(), z, y), y).mean()
    self.gen_tx.zero_grad(set_to_none=True)
    loss.backward()
    self.penalise()
    self.gen_tx.step()
    self.gen_sn.iterate()
    with torch.no_grad():
      torch._foreach_lerp_(self.ema, list(self.gen.parameters()), 1e-4)
    return loss.item()

  @torch.no_grad()
  def penalise(self, beta: float = 1e-4) -> None:
    """Add the gradient of the orthogonal penalty, through the Gram matrix of the small side."""
    for name, p in self.gen.named_parameters():
      if p.ndim >= 2 and name != 'shared.weight':
        w = p.flatten(1)  # a row is a filter
        product = (w @ w.T) @ w if w.shape[0] <= w.shape[1] else w @ (w.T @ w)
        grad = 4 * (product - w * w.square().sum(1, keepdim=True))
        p.grad += beta * grad.view_as(p)
