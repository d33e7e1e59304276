# SPDX-License-Identifier: Apache-2.0
r"""Makes an HTML page about one run, or a comparison of several.

  python -m experiments.report RUN
  python -m experiments.report RUN --data=DIR
  python -m experiments.report RUN --text='A sentence of your own.'
  python -m experiments.report SWEEP --out=sweep.html
  python -m experiments.report RUN RUN RUN

RUN is a workdir. SWEEP is a folder of workdirs, perhaps one folder deeper. The
page needs no other file and no network. For one run it shows results, learning
curves, attention maps of an example, similarity of the heads, cost beside
multi-head attention, and the config. For several it shows means and standard
deviations over seeds, and learning curves.
"""

import pathlib

from collab import command
from collab.io import atomic
from experiments.report import comparison, one, runs


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('runs', nargs='+', metavar='RUN_OR_SWEEP')
  add('--text', default='', help='for the maps of a run, not its own data')
  add('--data', default='', metavar='DIR', help='local training data of a run')
  add(
    '--out',
    default='',
    metavar='FILE',
    help='default: report.html in RUN_OR_SWEEP, of several in this folder',
  )
  with command.errors_in_a_line('report'):
    args = parser.parse_args()
    print(write(args.runs, args.text, args.out, args.data))


def write(
  paths: list, text: str = '', out: str = '', data: str = ''
) -> str | pathlib.Path:
  """Writes the page; returns its path.

  Raises:
    ValueError, OSError: the runs cannot be read, or the page not written.
  """
  found = [runs.read(folder) for folder in runs.find(paths)]
  if not out:
    out = pathlib.Path(paths[0] if len(paths) == 1 else '.') / 'report.html'
  elif not (folder := pathlib.Path(out).absolute().parent).is_dir():
    raise ValueError(f'--out={out}: there is no folder {folder}.')
  if len(found) == 1:
    html = one.write(found[0], text, data)
  elif text:
    raise ValueError(f'--text is for one run, got {len(found)}.')
  else:
    html = comparison.write(found)
  atomic.write_text(out, html)
  return out


if __name__ == '__main__':
  main()
