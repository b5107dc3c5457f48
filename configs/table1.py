"""The rows of the paper's Table 1 (Brock et al. 2019): BigGAN at 128 px, one change after another.

  bigjax train --config table1:row5 --config.data.data_dir=/data/tfds

Hardware: 128 TPU v3 cores in the paper. Published, untruncated, at the checkpoint before collapse
(rows 1 to 3 did not collapse), for rows 5 to 9 over eight seeds; the number of samples and the
reference set are not stated:

  row  batch  ch   shared skip-z penalty    thousand steps  FID              IS
  1    256    64   no     no     no         1000            18.65            52.52
  2    512    64   no     no     no         1000            15.30            58.77 (+-1.18)
  3    1024   64   no     no     no         1000            14.88            63.03 (+-1.42)
  4    2048   64   no     no     no         732             12.39            76.85 (+-3.83)
  5    2048   96   no     no     no         295 (+-18)      9.54 (+-0.62)    92.98 (+-4.27)
  6    2048   96   yes    no     no         185 (+-11)      9.18 (+-0.13)    94.94 (+-1.32)
  7    2048   96   yes    yes    no         152 (+-7)       8.73 (+-0.45)    98.76 (+-2.84)
  8    2048   96   yes    yes    yes        165 (+-13)      8.51 (+-0.32)    99.31 (+-2.10)
  9    2048   64   yes    yes    yes        371 (+-7)       10.48 (+-0.10)   86.90 (+-0.61)

Row 1's figures are SA-GAN's own (Zhang et al. 2019), which has twice the learning rates and one
discriminator step; here it has the other rows' values. z has 128 dimensions where it is not split.
Nothing has been measured here.
"""

import ml_collections

from bigjax.configs import imagenet128

COLUMNS = (
  'optim.batch_size',
  'model.ch',
  'model.shared_dim',
  'model.skip_z',
  'model.z_dim',
  'optim.ortho_beta',
  'run.steps',
)
ROWS = {
  'row1': (256, 64, 0, False, 128, 0.0, 1_000_000),
  'row2': (512, 64, 0, False, 128, 0.0, 1_000_000),
  'row3': (1024, 64, 0, False, 128, 0.0, 1_000_000),
  'row4': (2048, 64, 0, False, 128, 0.0, 732_000),
  'row5': (2048, 96, 0, False, 128, 0.0, 295_000),
  'row6': (2048, 96, 128, False, 128, 0.0, 185_000),
  'row7': (2048, 96, 128, True, 120, 0.0, 152_000),
  'row8': (2048, 96, 128, True, 120, 1e-4, 165_000),
  'row9': (2048, 64, 128, True, 120, 1e-4, 371_000),
}


def get_config() -> ml_collections.ConfigDict:
  """Row 8."""
  config = imagenet128.get_config()
  config.run = {'steps': 165_000}
  return config


VARIANTS = {row: dict(zip(COLUMNS, values, strict=True)) for row, values in ROWS.items()}
for row in VARIANTS.keys() - {'row7', 'row8'}:  # the published curve is of their networks and batch
  VARIANTS[row]['eval.published'] = ''
VARIANTS['tiny'] = imagenet128.VARIANTS['tiny']
