"""What a run says of itself when it ends."""

import pytest

from bigjax.training import logs


@pytest.mark.parametrize(
  ('firsts', 'words'),
  [
    ([0], '44 steps in 14m11s'),
    ([34], '44 steps, 10 of them in 14m11s'),
    ([44], '44 steps, 0 of them in 14m11s'),
    ([0, 20], '44 steps in 14m11s'),  # rolled back to 20
    ([34, 20], '44 steps, 24 of them in 14m11s'),
  ],
)
def test_the_time_is_that_of_the_steps_it_is_said_with(monkeypatch, firsts, words):
  monkeypatch.setattr(logs.time, 'monotonic', lambda: 1000 + 851)
  session = logs.Session(began=1000)
  for first in firsts:
    session.goes_on_from(first)
  assert session.words(44) == words
