# SPDX-License-Identifier: Apache-2.0
r"""What the heads of a model have in common, kept for its table and figure.

  python -m experiments.redundancy MODEL_DIR --calibration=DIR/multi30k/train.en

The curves of `collab.analysis.redundancy`, of the weights and as inputs of the
text weigh them: the share of the energy that the r largest components hold.
"""

import sys
import time

import numpy as np

from collab import command
from collab.analysis import spectrum
from collab.analysis.redundancy import label
from collab.convert import calibration, intercept, source
from collab.convert.decompose import input_statistics
from collab.io import atomic, json_text
from collab.runtime import provenance
from experiments import study

CURVES = 'head', 'product'
RESULTS = 'redundancy.json'


def curves(folder, text, rows):
  """{what of: {layer: {curve, and the same of Gaussian weights}}}."""
  found = source.read(folder)
  model, batches = calibration.read(found, text, rows)
  inputs = input_statistics.collect(
    model, found.params, batches, intercept.paths(found.params)
  )
  kinds = dict(weights=None, inputs=inputs)
  return {
    kind: {
      label(path): {
        f'{whose}{name}': np.round(getattr(x, name), 6).tolist()
        for whose, x in (('', own), ('gaussian_', other))
        for name in CURVES
      }
      for path, (own, other) in spectrum.of_layers(found.params, seen).items()
    }
    for kind, seen in kinds.items()
  }


def main():
  parser = command.Parser(
    description=__doc__.split('\n')[0], prog='python -m experiments.redundancy'
  )
  parser.add_argument('model_dir')
  parser.add_argument('--calibration', required=True, help='text, one a line')
  parser.add_argument('--rows', type=int, default=512, help='of it, to look at')
  try:
    args = parser.parse_args()
    found = curves(args.model_dir, args.calibration, args.rows)
    row = dict(
      command='python -m experiments.redundancy MODEL_DIR --calibration=FILE '
      f'--rows={args.rows}',
      date=time.strftime('%Y-%m-%d'),
      versions=provenance.versions(),
      energy=found,
    )
    text = json_text.to_json(row).replace('], "', '],\n"') + '\n'
    atomic.write_text(study.RESULTS / RESULTS, text)
  except (ValueError, OSError) as e:
    sys.exit(f'redundancy: {" ".join(str(e).split())}')


if __name__ == '__main__':
  main()
