"""Schedules, respacing and tables: the official numbers, and what they are made of."""

import numpy as np
import pytest

from bigjax.core import errors
from bigjax.nn.diffusion import tables
from bigjax.nn.diffusion.tables import Tables, kept_steps

from golden_files import golden, under

# Name in the official code: ours.
NAMES = {
  'betas': 'betas', 'alphas_cumprod': 'alpha_bar', 'alphas_cumprod_prev': 'alpha_bar_prev',
  'alphas_cumprod_next': 'alpha_bar_next', 'sqrt_alphas_cumprod': 'sqrt_alpha_bar',
  'sqrt_one_minus_alphas_cumprod': 'sqrt_one_minus',
  'log_one_minus_alphas_cumprod': 'log_one_minus', 'sqrt_recip_alphas_cumprod': 'sqrt_recip',
  'sqrt_recipm1_alphas_cumprod': 'sqrt_recip_m1', 'posterior_variance': 'posterior_variance',
  'posterior_log_variance_clipped': 'posterior_log_variance',
  'posterior_mean_coef1': 'posterior_coef1', 'posterior_mean_coef2': 'posterior_coef2',
  'timestep_map': 'timesteps',
}  # fmt: skip


def test_official_tables():
  arrays = under(golden('diffusion_tables'), 'tables/')
  found = {name.split('/')[0] for name in arrays}
  assert len(found) >= 8
  for name in found:
    schedule, num, steps = name.split('_')
    of = Tables(schedule, int(num), '' if steps == 'all' else steps.replace('-', ','))
    for theirs, ours in NAMES.items():
      want = arrays[f'{name}/{theirs}']
      np.testing.assert_allclose(getattr(of, ours), want, rtol=1e-10, atol=0, err_msg=name)


@pytest.mark.parametrize(
  'schedule, num, first, middle, last',
  [
    ('linear', 1000, 1e-4, 0.0785872, 4.03583e-5),
    ('linear', 4000, 2.5e-5, 0.0789449, 4.24665e-5),
    ('cosine', 1000, 4.12842e-5, 0.4938436, 2.42877e-9),
    ('cosine', 4000, 9.86582e-6, None, None),
  ],
)
def test_numbers_of_the_specification(schedule, num, first, middle, last):
  of = Tables(schedule, num)
  np.testing.assert_allclose(of.betas[0], first, rtol=1e-5)
  if middle:
    np.testing.assert_allclose(of.alpha_bar[num // 2 - 1], middle, rtol=1e-6)
    np.testing.assert_allclose(of.alpha_bar[-1], last, rtol=1e-5)
  assert (of.betas > 0).all() and (of.betas <= tables.MOST_BETA).all()


def test_kept_steps():
  assert kept_steps(1000, '10') == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
  assert kept_steps(1000, 'ddim10') == list(range(0, 1000, 100))
  sections = kept_steps(300, '10,15,20')
  assert sections[:4] == [0, 11, 22, 33] and len(sections) == 45
  assert sum(100 <= step < 200 for step in sections) == 15
  assert kept_steps(5, '5') == [0, 1, 2, 3, 4] and kept_steps(7, '1') == [0]
  assert kept_steps(1000, '1000') == kept_steps(1000, 'ddim1000') == list(range(1000))


@pytest.mark.parametrize(
  'num, text',
  [
    (1000, 'ddim300'), (1000, '0'), (1000, '1001'), (1000, ''), (1000, 'fast'), (1000, '-5'),
    (1000, '2.5'), (10, '6,4'), (2, '1,1,1'), (1000, 'ddim'), (1000, 'ddim10,10'),
    (1000, '²'), (100, 'ddim200'),
  ],
)  # fmt: skip
def test_steps_that_there_are_not(num, text):
  with pytest.raises(errors.UserError, match='steps'):
    kept_steps(num, text)


def test_respaced_products_are_those_of_the_kept_steps():
  whole = Tables('cosine', 1000)
  for steps in ('50', 'ddim50', '10,15,20', '1'):
    part = Tables('cosine', 1000, steps)
    np.testing.assert_allclose(part.alpha_bar, whole.alpha_bar[part.timesteps], rtol=1e-10)


def test_one_step_is_finite():
  of = Tables('linear', 1000, '1')
  assert np.isfinite(of.posterior_log_variance).all() and of.posterior_coef2 == 0
  np.testing.assert_allclose(of.posterior_coef1, 1, rtol=1e-12)


def test_steps_even_in_log_snr():
  for schedule in tables.SCHEDULES:
    for num in (1, 2, 10, 50, 400, 1000):
      of = Tables(schedule, 1000, f'logsnr{num}')
      assert len(of.timesteps) == num and (np.diff(of.timesteps) > 0).all()
      assert of.timesteps[0] == 0 and (num == 1 or of.timesteps[-1] == 999)
  gaps = np.diff(tables.half_log_snr(Tables('linear', 1000, 'logsnr10').alpha_bar))
  assert gaps.max() < 0.5 * gaps.min() < 0
  with pytest.raises(errors.UserError, match='steps'):
    _ = Tables('linear', 1000, 'logsnr2000').timesteps
