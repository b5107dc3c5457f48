"""A folder sent to the Hugging Face hub by huggingface_hub. The user's token is in no sentence.

It is huggingface_hub's to find: $HF_TOKEN, or what `hf auth login` kept. Only files that bigjax
wrote are sent, whatever else lies in the folder.
"""

import re
from collections.abc import Sequence

from bigjax.core import errors
from bigjax.sampling.sharing import remote

SECRET = re.compile(r'\bhf_\w{6,}|(?<=Bearer )\S+|(?<=[?&])\S+')  # the last: what signs an address


def hidden(text: str, *secrets: str) -> str:
  """A text in one line without these secrets, and without what looks like one."""
  for secret in filter(None, secrets):
    text = text.replace(secret, '***')
  words = ' '.join(SECRET.sub('***', text).split())
  return words[:500].encode('ascii', 'backslashreplace').decode()


def push(folder: str, names: Sequence[str], repo: str, private: bool) -> str:
  """Send files to a model's repository, which is made where there is none; return its address.

  Args:
    folder: in which they lie.
    names: of them.
    repo: OWNER/NAME.
    private: whether a new repository is.
  Raises:
    UserError: there is no token, or the hub refuses them, or cannot be reached.
  """
  import huggingface_hub

  token = huggingface_hub.get_token() or ''
  if not token:
    raise errors.UserError(
      f'--push={repo} needs a token of the hub that may write: run `hf auth login`, or set '
      f'HF_TOKEN; the folder {folder!r} is ready.'
    )
  api = huggingface_hub.HfApi(endpoint=remote.endpoint(), token=token, library_name='bigjax')
  try:
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.model_info(repo).private:
      raise errors.UserError(
        f'--push={repo} is there already and is public: nothing was sent; give another name, or '
        'leave out --private.'
      )
    info = api.upload_folder(
      repo_id=repo,
      folder_path=folder,
      allow_patterns=list(names),
      commit_message='A generator, by bigjax export --hub',
    )
  except errors.UserError:
    raise
  except Exception as error:  # of its http library, of its own, of the disk
    told = [error, *filter(None, [error.__cause__])]
    why = ', by '.join(f'{type(one).__name__}: {one}' for one in told)
    raise errors.UserError(
      f'--push={repo} failed ({hidden(why, token)}); the folder {folder!r} is ready, and the same '
      'command tries again.'
    ) from None
  return f'{remote.endpoint()}/{repo} (commit {info.oid[:12]})'
