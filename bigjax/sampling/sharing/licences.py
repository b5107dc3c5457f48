"""Licences as the Hugging Face hub names them."""

from bigjax.core import errors

LICENCES = (  # identifiers of the hub that people give to weights
  'apache-2.0', 'mit', 'bsd', 'bsd-2-clause', 'bsd-3-clause', 'isc', 'cc0-1.0', 'cc-by-2.0',
  'cc-by-2.5', 'cc-by-3.0', 'cc-by-4.0', 'cc-by-sa-3.0', 'cc-by-sa-4.0', 'cc-by-nc-2.0',
  'cc-by-nc-3.0', 'cc-by-nc-4.0', 'cc-by-nd-4.0', 'cc-by-nc-nd-3.0', 'cc-by-nc-nd-4.0',
  'cc-by-nc-sa-2.0', 'cc-by-nc-sa-3.0', 'cc-by-nc-sa-4.0', 'cdla-sharing-1.0',
  'cdla-permissive-1.0', 'cdla-permissive-2.0', 'openrail', 'openrail++',
  'creativeml-openrail-m', 'gpl-2.0', 'gpl-3.0', 'agpl-3.0', 'lgpl-2.1', 'lgpl-3.0', 'mpl-2.0',
  'epl-2.0', 'eupl-1.2', 'odc-by', 'odbl', 'pddl', 'unlicense', 'wtfpl', 'zlib', 'unknown',
  'other',
)  # fmt: skip


def check(licence: str | None) -> None:
  """Refuse a licence that the hub has no such name for.

  Raises:
    UserError: says which it has.
  """
  if licence is not None and licence not in LICENCES:
    raise errors.UserError(
      f'--license={licence:.80} is none that the hub has a name for'
      f'{errors.did_you_mean(licence, LICENCES)}; give one such as {", ".join(LICENCES[:3])}, '
      'cc-by-4.0, or `other`, and say in README.md which.'
    )
