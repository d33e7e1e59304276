# SPDX-License-Identifier: Apache-2.0
r"""Translates lines of text with a trained run.

  python -m collab.translate --workdir=DIR < in.en > out.de

One line in, one line out; an empty line stays empty.
"""

import argparse
import sys

from collab import trained
from collab.tasks import wmt14


def main():
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n')[0], prog='python -m collab.translate'
  )
  parser.add_argument('--workdir', required=True, help='of a translation run')
  parser.add_argument('--beam', type=int, help='default: that of the run')
  parser.add_argument('--alpha', type=float, help='length penalty, likewise')
  args = parser.parse_args()
  try:
    model, params, words, config = trained.load(args.workdir, 'wmt14')
    beam = config.task.beam if args.beam is None else args.beam
    alpha = config.task.alpha if args.alpha is None else args.alpha
    lines = [line.strip() for line in sys.stdin]
    full = [line for line in lines if line]
    found = iter(
      wmt14.translate(model, params, words, full, beam=beam, alpha=alpha)
    )
    for line in lines:
      print(next(found) if line else '')
  except (ValueError, OSError) as e:
    sys.exit(f'translate: {" ".join(str(e).split())}')


if __name__ == '__main__':
  main()
