"""BigGAN in plain PyTorch: what benchmarks/train_step.py measures ours against.

Idiomatic and fast rather than clever: spectral norm by one power iteration per update on the raw
weights, as ours; convolutions left to oneDNN or cuDNN, in either memory layout; attention by
PyTorch's own; fused Adam; `torch.compile` where asked. The game is ours, too: hinge loss, D on real
and fake in one forward, orthogonal penalty on G, averaged weights. Not a training script: images
and latents are noise.
"""

import dataclasses
import functools
import itertools

import torch
from torch import nn
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Setup:
  """A network and a step: widths and attention as in bigjax/models/biggan.py.

  `channels_last` is the memory layout, `bfloat16` autocast's type, `compiled` uses torch.compile.
  """

  resolution: int = 32
  gen_widths: tuple[int, ...] = (4, 4, 4, 4)  # at 4x4, then after each block
  disc_widths: tuple[int, ...] = (4, 4, 4, 4)  # after each block
  num_down: int = 2
  gen_attention: tuple[int, ...] = ()
  disc_attention: tuple[int, ...] = ()
  ch: int = 32
  batch: int = 32
  d_steps: int = 1
  num_classes: int = 10
  z_dim: int = 80
  shared_dim: int = 128
  ortho_beta: float = 1e-4
  betas: tuple[float, float] = (0.0, 0.999)
  channels_last: bool = False
  bfloat16: bool = False
  compiled: bool = False
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


class Attention(nn.Module):
  def __init__(self, width: int):
    super().__init__()
    conv = lambda before, after: nn.Conv2d(before, after, 1, bias=False)
    self.theta, self.phi = conv(width, width // 8), conv(width, width // 8)
    self.g, self.o = conv(width, width // 2), conv(width // 2, width)
    self.gamma = nn.Parameter(torch.zeros(()))

  def forward(self, x):
    b, c, h, w = x.shape
    pooled = [F.max_pool2d(conv(x), 2) for conv in (self.phi, self.g)]
    q, k, v = (part.flatten(2).mT for part in (self.theta(x), *pooled))
    spare = -q.shape[-1] % 8  # PyTorch's fused kernels want multiples of 8
    q, k = F.pad(q, (0, spare)), F.pad(k, (0, spare))
    o = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)[:, 0]
    return x + self.gamma * self.o(o.mT.reshape(b, c // 2, h, w))


class Generator(nn.Module):
  def __init__(self, s: Setup):
    super().__init__()
    first, *widths = [s.ch * width for width in s.gen_widths]
    self.chunk, self.first = s.z_dim // len(s.gen_widths), first
    self.shared = nn.Embedding(s.num_classes, s.shared_dim)
    self.linear = nn.Linear(self.chunk, 16 * first)
    self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
    for i, (before, after) in enumerate(itertools.pairwise([first, *widths])):
      self.blocks.append(GenBlock(before, after, s.shared_dim + self.chunk))
      if 8 << i in s.gen_attention:
        self.attention[str(i)] = Attention(after)
    self.bn, self.conv = nn.BatchNorm2d(after, eps=1e-4), nn.Conv2d(after, 3, 3, padding=1)

  def forward(self, z, y):
    first, *parts = z.split(self.chunk, 1)
    h = self.linear(first).view(-1, self.first, 4, 4)
    for i, (block, part) in enumerate(zip(self.blocks, parts, strict=True)):
      h = block(h, torch.cat([self.shared(y), part], 1))
      h = self.attention[str(i)](h) if str(i) in self.attention else h
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
    widths = [s.ch * width for width in s.disc_widths]
    self.blocks = nn.Sequential()
    for i, (before, after) in enumerate(itertools.pairwise([3, *widths])):
      self.blocks.append(DiscBlock(before, after, i < s.num_down, i == 0))
      if i < s.num_down and s.resolution >> (i + 1) in s.disc_attention:
        self.blocks.append(Attention(after))
    self.linear, self.embed = nn.Linear(after, 1), nn.Embedding(s.num_classes, after)

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
      net.parameters(), lr, betas=s.betas, eps=1e-8, fused=True
    )
    self.gen_tx, self.disc_tx = adam(self.gen, 5e-5), adam(self.disc, 2e-4)
    self.gen_sn, self.disc_sn = Normalized(self.gen), Normalized(self.disc)
    if s.compiled:
      compiled = functools.partial(torch.compile, dynamic=False)  # D sees 2B examples and B
      self.run, self.penalise = compiled(self.run), compiled(self.penalise)
      for norm in (self.gen_sn, self.disc_sn):
        norm.iterate = compiled(norm.iterate)
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
    if self.s.ortho_beta:
      self.penalise()
    self.gen_tx.step()
    self.gen_sn.iterate()
    with torch.no_grad():
      torch._foreach_lerp_(self.ema, list(self.gen.parameters()), 1e-4)
    return loss.item()

  @torch.no_grad()
  def penalise(self) -> None:
    """Add the gradient of the orthogonal penalty, through the Gram matrix of the small side."""
    for name, p in self.gen.named_parameters():
      if p.ndim >= 2 and name != 'shared.weight':
        w = p.flatten(1)  # a row is a filter
        product = (w @ w.T) @ w if w.shape[0] <= w.shape[1] else w @ (w.T @ w)
        grad = 4 * (product - w * w.square().sum(1, keepdim=True))
        p.grad += self.s.ortho_beta * grad.view_as(p)
