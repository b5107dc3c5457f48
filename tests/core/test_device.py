"""Where compiled programs are kept."""

import jax

from bigjax.core import device


def test_a_home_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, capsys):
  kept = jax.config.jax_compilation_cache_dir
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'file' / 'cache'))
  try:
    device.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert 'compiled programs cannot be kept in' in capsys.readouterr().err
  finally:
    jax.config.update('jax_compilation_cache_dir', kept)
