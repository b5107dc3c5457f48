"""The game of residual GANs, but for the order in which the players move, which each family has.

Two players; latents, labels and keys drawn per example; in the five places of base/places.py
whatever a config asks for. A family adds `step`, and its paper's own links of the optimizers.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms.base import contract, player
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, purpose
from bigjax.algorithms.base.places import Judged, Made, Places
from bigjax.algorithms.base.player import Player, to_float
from bigjax.core import parallel, trees
from bigjax.nn.latents import Law
from bigjax.nn.microbatches import microbatched
from bigjax.nn.objectives import perturbations
from bigjax.nn.schedules import Decay

Array = jax.Array


def as_stored(keys: Array, images: Array) -> Array:
  """uint8 images as float32 in [-1, 1], nothing added; `keys` [B] are for those that add noise."""
  del keys
  return to_float(images)


def dequantised(keys: Array, images: Array) -> Array:
  """uint8 images x as x / 128 - 1 + U(0, 1/128), in [-1, 1): SN-GAN's and WGAN-GP's codes."""
  if images.dtype != jnp.uint8:
    return images
  noise = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
  return images.astype(jnp.float32) / 128 - 1 + noise / 128


def scores_of(said: Any) -> tuple[Array, Array | None]:
  """(Scores [b], logits of the classes or None), from what a discriminator says."""
  return said if isinstance(said, tuple) else (said, None)


@dataclasses.dataclass(frozen=True)
class ResidualGAN:
  """All of contract.Algorithm but `step`; see there for what each method promises."""

  gen_net: Any  # Generator and Discriminator of a module of models/ (base/networks.Networks)
  disc_net: Any
  gen: Player
  disc: Player
  batch: tuple[int, int]  # (discriminator steps, examples of each)
  gen_batch: int  # examples of the generator's step
  law: Law
  labels: LabelLaw
  ema: Decay  # of the averaged weights
  ema_start: int
  places: Places
  dropout: float = 0.0  # of the discriminator's summed features
  microbatches: int = 1  # parts of a device's batch, one after the other
  read: Callable[[Array, Array], Array] = as_stored  # (keys, uint8 images) -> floats
  network: str = ''  # its name on the card, and further fields of the generator that this has
  options: tuple[str, ...] = ()
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  sampled = 'gen'
  remedies = (
    'lower the learning rates, or add a penalty (optim.r1_gamma, optim.lecam_weight, '
    'model.disc_dropout)'
  )

  @property
  def periods(self) -> Mapping[str, int]:
    return dict(self.places.periods)

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    inputs = contract.image_inputs(self.gen_net.resolution, self.gen_net.channels)
    return [(0, Stage(*self.batch, inputs))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net = self.gen_net.clone(bn_group=None, microbatches=1)  # two examples need not divide
    z, y = jnp.zeros((2, net.z_dim), jnp.float32), jnp.zeros((2,), jnp.int32)
    images = jnp.zeros((2, net.resolution, net.resolution, net.channels), jnp.float32)
    gen = net.init(key_gen, z, y, train=True)['params']
    gen = self.gen.init(player.replace(gen, given.get('gen', {})))
    disc = self.disc_net.init(key_disc, images, y)['params']
    disc = self.disc.init(player.replace(disc, given.get('disc', {})))
    ema = player.replace(gen['params'], given.get('ema', {}))
    terms = self.places.start(self.gen.weights(gen), jax.random.fold_in(key_state, 0))
    aux = {'terms': terms} if terms else {}
    return player.initial_state(key_state, {'gen': gen, 'disc': disc}, ema, aux)

  def fresh(self, key: Array, shape: tuple[int, ...], step: Array) -> dict[str, Array]:
    """Draw latents, labels and keys for the rest, one per example."""
    key_z, key_y, key_aug = jax.random.split(key, 3)
    inputs = {
      'z': self.law.train(key_z, shape, self.gen_net.z_dim, step),
      'y': self.labels.draw(key_y, shape),
      'aug': jax.random.split(key_aug, shape),
    }
    return parallel.shard_examples(inputs, lead=len(shape) - 1)

  def images(self, weights: Any, z: Array, y: Array) -> Array:
    """The generator's images, in training mode, with no more in memory than need be.

    Microbatches that are whole BatchNorm groups run through the network one by one; others go from
    one BatchNorm to the next together.
    """
    net = self.gen_net
    if net.bn_group and (len(z) // self.microbatches) % net.bn_group == 0:
      run = lambda part: net.apply({'params': weights}, part['z'], part['y'], train=True)
      return microbatched(run, self.microbatches, {'z': z, 'y': y})
    net = net.clone(microbatches=self.microbatches)
    return net.apply({'params': weights}, z, y, train=True)

  def fakes(self, weights: Any, batch: dict) -> dict[str, Any]:
    """{'fake': images, 'others': those of further latents} of a device's batch."""
    z, y = batch['z'], batch['y']
    others = {name: move(purpose(batch['aug'], name), z) for name, move in self.places.latents}
    return {
      'fake': self.images(weights, z, y),
      'others': {name: self.images(weights, z, y) for name, z in others.items()},
    }

  def critic(
    self, weights: Any, keys: Array, labels: Array
  ) -> Callable[[Array], tuple[Array, Array | None]]:
    """The discriminator in training: images -> (scores [b], logits of the classes or None).

    Args:
      weights: normalised.
      keys: [b], of its dropout and perturbations.
      labels: [b].
    """
    mask = None
    if self.dropout:
      num = self.disc_net.num_features
      mask = perturbations.kept(purpose(keys, 'dropout'), (num,), self.dropout)

    def judge(images):
      with perturbations.perturbing(self.places.perturb, purpose(keys, 'perturb')):
        said = self.disc_net.apply({'params': weights}, images, labels, mask)
      return scores_of(said)

    return judge

  def disc_loss(
    self, weights: Any, shared: dict, batch: dict, due: contract.Due = contract.NONE_DUE
  ) -> tuple[Array, Metrics]:
    """L_D on one device's examples, of normalised weights; `shared` has the other player's.

    Terms with a state take it from shared['terms'], and leave it in the metrics' 'terms'.
    """
    given = self.places.strengthened(shared.get('terms', {}))
    terms = given.due(given.disc_terms, due)

    def judge(part):
      # What the discriminator is shown: images with their noise, fakes among them (APA), augmented.
      key_real, key_fake = part['aug_real'], part['aug']
      plain_fake = part['fake']
      plain_real = self.read(purpose(key_real, 'noise'), part['image']).astype(plain_fake.dtype)
      plain_real, label = given.shown(
        purpose(key_real, 'pseudo'), (plain_real, part['label']), (plain_fake, part['y'])
      )
      real, fake = given.augmented(key_real, plain_real), given.augmented(key_fake, plain_fake)
      # Real and fake in one pass; then the terms.
      both = [jnp.concatenate(pair) for pair in ((key_real, key_fake), (label, part['y']))]
      logits, said = given.transform(self.critic(weights, *both), jnp.concatenate([real, fake]))
      real_logits, fake_logits = jnp.split(logits, 2)
      score = lambda *of: lambda images: given.transform(self.critic(weights, *of), images)[0]
      judged = Judged(
        score(key_real, label), score(key_fake, part['y']),
        lambda images: score(key_real, label)(given.augmented(key_real, images)),
        real, fake, plain_real, plain_fake,
        real_logits, fake_logits, label, key_fake, lambda images: given.augmented(key_fake, images),
        None if said is None else said[: len(real)], part['others'],
      )  # fmt: skip
      return real_logits, fake_logits, {
        name: term(dataclasses.replace(judged, keys=purpose(key_fake, name)))
        for name, term in terms
      }  # fmt: skip

    # The loss, over all of the device's examples.
    fakes = self.fakes(shared['gen'], batch)
    real_logits, fake_logits, values = microbatched(judge, self.microbatches, {**batch, **fakes})
    loss_real, loss_fake = given.loss.disc(real_logits, fake_logits)
    metrics = {
      'd_loss': loss_real + loss_fake,
      'd_loss_real': loss_real,
      'd_loss_fake': loss_fake,
      'd_logit_real': real_logits.mean(),
      'd_logit_fake': fake_logits.mean(),
    }
    if given.loss.has_sides:
      metrics |= {
        'd_accuracy_real': (real_logits > 0).mean(dtype=jnp.float32),
        'd_accuracy_fake': (fake_logits < 0).mean(dtype=jnp.float32),
      }
    if given.controller is not None:
      metrics['d_overfit'] = given.controller.measure(real_logits, fake_logits)
    # Terms of single examples, then those of all scores, which have a state.
    penalties, states = {f'd_{name}': value.mean() for name, value in values.items()}, {}
    for name, term in given.score_terms:
      penalties[f'd_{name}'], states[name] = term(shared['terms'][name], real_logits, fake_logits)
    total = sum(penalties.values(), loss_real + loss_fake)
    return total, metrics | penalties | ({'terms': states} if states else {})

  def gen_loss(
    self, weights: Any, shared: dict, batch: dict, due: contract.Due = contract.NONE_DUE
  ) -> tuple[Array, Metrics]:
    """L_G on one device's examples; links of the optimizer chain have penalties of their own."""
    given = self.places.strengthened(shared.get('terms', {}))

    def judge(part):
      critic = self.critic(shared['disc'], part['aug'], part['y'])
      fake = given.augmented(part['aug'], part['fake'])
      logits, said = given.transform(critic, fake, stop_norm=True)
      made = Made(part['fake'], part['y'], said, part['others'])
      return logits, {name: term(made) for name, term in given.due(given.gen_terms, due)}

    def judge_real(part):
      critic = self.critic(shared['disc'], part['aug_real'], part['label'])
      real = self.read(purpose(part['aug_real'], 'noise'), part['image'])
      return given.transform(critic, given.augmented(part['aug_real'], real))[0]

    own = {name: batch[name] for name in ('z', 'y', 'aug')} | self.fakes(weights, batch)
    logits, values = microbatched(judge, self.microbatches, own)
    reals = {name: x for name, x in batch.items() if name not in own}  # maybe fewer than fakes
    real = microbatched(judge_real, self.microbatches, reals) if given.loss.needs_real else None
    penalties, states = {f'g_{name}': value.mean() for name, value in values.items()}, {}
    for name, keep in given.filters:
      logits, states[name] = keep(shared['terms'][name], logits)
    for name, term in given.due(given.weight_terms, due):
      penalties[f'g_{name}'], states[name] = term(shared['terms'][name], weights)
    loss = given.loss.gen(logits, real)
    total = sum(penalties.values(), loss)
    return total, {'g_loss': loss} | penalties | ({'terms': states} if states else {})

  def examples(self, state: State, batch: Batch, stage: Stage) -> tuple[dict, dict]:
    """The discriminator's examples of a step [k, B, ...], and the generator's [B, ...]."""
    key = jax.random.fold_in(state['key'], state['step'])
    key_disc, key_gen, key_real = jax.random.split(key, 3)
    shape = stage.minibatches, stage.examples
    aug_real = example_keys(key_real, shape)
    of_disc = {**batch, **self.fresh(key_disc, shape, state['step']), 'aug_real': aug_real}
    of_gen = self.fresh(key_gen, (self.gen_batch,), state['step'])
    if self.places.loss.needs_real:  # relativistic losses compare with the first minibatch
      of_gen |= {name: of_disc[name][0] for name in ('image', 'label', 'aug_real')}
    return of_disc, of_gen

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    gen, disc = state['players']['gen'], state['players']['disc']
    of_disc, of_gen = self.examples(state, batch, stage)
    first = jax.tree.map(lambda x: x[0], of_disc)
    terms = self.terms(state)
    of_gen_loss = {'disc': self.disc.weights(disc), **terms}
    of_disc_loss = {'gen': self.gen.weights(gen), **terms}
    return {
      'gen': self.gen.loss(gen, self.gen_loss, of_gen_loss, of_gen),
      'disc': self.disc.loss(disc, self.disc_loss, of_disc_loss, first),
    }

  def terms(self, state: State) -> dict[str, Any]:
    """{'terms': states of the terms}, where there are any."""
    return {name: state['aux'][name] for name in ('terms',) if name in state['aux']}

  # --- moves of the players, for a family's `step`

  def move_disc(
    self,
    state: State,
    skipped: Array,
    gen_weights: Any,
    minibatches: dict,
    due: contract.Due,
    terms: dict[str, Any],
  ) -> tuple[dict[str, Any], Array, Metrics, dict[str, Any]]:
    """The discriminator's k steps, each on a minibatch of its own [k, B, ...].

    Returns:
      (player, skipped, metrics, {'terms': states} where there are any).
    """
    loss = functools.partial(self.disc_loss, due=due)
    disc, skipped, metrics, terms = self.disc.descend_each(
      state['players']['disc'], skipped, loss, {'gen': gen_weights}, minibatches, 'd_grad_norm',
      terms,
    )  # fmt: skip
    states, metrics = self.places.adapted(
      terms.get('terms', {}), metrics, self.batch[0] * self.batch[1]
    )
    return disc, skipped, metrics, {'terms': states} if states else terms

  def move_gen(
    self,
    state: State,
    skipped: Array,
    disc_weights: Any,
    examples: dict,
    due: contract.Due,
    terms: dict[str, Any],
    pulled: Any = None,
  ) -> tuple[dict[str, Any], Array, Any, Metrics, dict[str, Any]]:
    """The generator's step.

    Returns:
      (player, skipped, averaged weights, metrics, {'terms': states} where there are any).
    """
    loss = functools.partial(self.gen_loss, due=due)
    gen, skipped, finite, metrics = self.gen.descend(
      state['players']['gen'], skipped, loss, {'disc': disc_weights, **terms}, examples,
      'g_grad_norm', pulled,
    )  # fmt: skip
    decay = self.ema(state['step'], self.gen_batch)
    ema = player.averaged(state, gen['params'], decay, self.ema_start, finite)
    new = {name: terms[name] | metrics.pop(name) for name in terms if name in metrics}
    return gen, skipped, ema, metrics, trees.select(finite, {**terms, **new}, terms)

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    del stage
    players = parallel.all_gather_weights(state['players'])
    gen, disc = players['gen'], players['disc']
    weights = {'gen': self.gen.weights(gen), 'disc': self.disc.weights(disc)}
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    train, held_out = first(dict(batch)), first(dict(held_out))
    key = jax.random.fold_in(jax.random.fold_in(state['key'], state['step']), 3)  # no key of a step

    # Signs of the discriminator on training, held-out and fake images, where they mean something.
    def accuracies(_, weights, examples):
      def score(image, y):
        judge = lambda part: scores_of(self.disc_net.apply({'params': weights['disc']}, *part))[0]
        return microbatched(judge, self.microbatches, (image, y))

      train, held_out, z, y = (examples[name] for name in ('train', 'held_out', 'z', 'y'))
      real = [score(to_float(given['image']), given['label']) for given in (train, held_out)]
      return player.accuracies(real[0], real[1], score(self.images(weights['gen'], z, y), y))

    fresh = self.fresh(key, train['label'].shape, state['step'])
    examples = {'train': train, 'held_out': held_out, 'z': fresh['z'], 'y': fresh['y']}
    signs = {}
    if self.places.loss.has_sides:
      signs = parallel.over_batch(accuracies)({}, weights, examples)
    return signs | player.vital_signs({'gen': self.gen, 'disc': self.disc}, players)

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    return {'params': self.gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    net = self.gen_net
    fields = ('resolution', 'num_classes', 'ch', 'z_dim', 'channels', 'bn_eps')
    return {
      'network': self.network,
      'latent': self.law.name,
      'attention': list(net.attention),
      **{name: getattr(net, name) for name in (*fields, *self.options)},
    }

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)
