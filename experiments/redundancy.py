# SPDX-License-Identifier: Apache-2.0
r"""Measures how much the heads of a model have in common, for a table.

  python -m experiments.redundancy MODEL_DIR --calibration=DIR/multi30k/train.en

The curves are those of `collab.analysis.redundancy`: the share of the energy in
the r largest components. They are computed from the weights alone, and weighted
by the inputs of the text.
"""

import numpy as np

from collab import command
from collab.analysis import spectrum
from collab.analysis.redundancy import label
from collab.convert import calibration, source
from collab.convert.decompose import input_statistics
from collab.io import atomic, json_text
from experiments import results, study

CURVES = 'head', 'product'
RESULTS = 'redundancy.json'


def curves(folder: str, text: str, rows: int) -> dict:
  """Returns {kind: {layer: {name: curve}}}, also for Gaussian weights."""
  found = source.read(folder)
  model, batches = calibration.read(found, text, rows)
  inputs = input_statistics.collect(model, found.params, batches)
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


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('model_dir')
  add('--calibration', required=True, help='text, one a line')
  add('--rows', type=int, default=512, help='of it, to look at')
  with command.errors_in_a_line('redundancy'):
    args = parser.parse_args()
    found = curves(args.model_dir, args.calibration, args.rows)
    row = results.about(
      f'{parser.prog} MODEL_DIR --calibration=FILE --rows={args.rows}'
    )
    text = json_text.to_json(row | dict(energy=found)).replace('], "', '],\n"')
    atomic.write_text(study.RESULTS / RESULTS, text + '\n')


if __name__ == '__main__':
  main()
