"""What is drawn per example: labels by their law, noise that follows from latents."""

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base import draws


def test_keys_follow_from_each_examples_latents_alone():
  z = jax.random.normal(jax.random.key(0), (64, 4, 4, 1))
  noise = lambda z: jax.vmap(lambda key: jax.random.normal(key, (500,)))(draws.keys_of(z))
  whole = noise(z)
  np.testing.assert_array_equal(noise(z[7:9]), whole[7:9])
  assert len({int(key) for key in jax.random.key_data(draws.keys_of(z))[:, 1]}) == 64
  # No correlation between examples: of 64 x 63 / 2 of them, none beyond five deviations.
  correlations = np.corrcoef(whole) - np.eye(64)
  assert np.abs(correlations).max() < 5 / np.sqrt(500)
  assert not (noise(z.at[0, 0, 0, 0].add(1e-6))[0] == whole[0]).any()


def test_labels_as_frequent_as_in_the_data():
  law = draws.label_law('data', 3, lambda: [1, 0, 3])
  labels = law.draw(jax.random.key(0), (4000,))
  counts = np.bincount(labels, minlength=3) / 4000
  np.testing.assert_allclose(counts, [0.25, 0, 0.75], atol=0.03)
  assert labels.dtype == jnp.int32
