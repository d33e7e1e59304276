# SPDX-License-Identifier: Apache-2.0
r"""Translates lines of text with a trained run.

  python -m collab.translate --workdir=DIR < in.en > out.de

For each line of input one line is printed; an empty line stays empty. A line
that is too long gives an empty line; standard error names it, and the exit code
is 1.
"""

import sys

import collab
from collab import command
from collab.training import sharding


def main(argv: list[str]) -> None:
  parser = command.Parser(__spec__, __doc__)
  parser.add_argument('--workdir', required=True, help='of a translator')
  parser.add_argument('--beam', type=int, help='default: that of the run')
  parser.add_argument('--alpha', type=float, help='length penalty, likewise')
  parser.add_argument(
    '--fsdp', type=int, default=1, help='devices to split the parameters over'
  )
  args = parser.parse_args(argv)
  run = collab.load(args.workdir, sharding.make_mesh(args.fsdp))
  run.words('pairs')  # refuses another model before it waits for input
  lines = list(command.stdin_lines())
  found = run.translate(lines, beam=args.beam, alpha=args.alpha)
  command.print_lines('translate', found)


if __name__ == '__main__':
  with command.errors_in_a_line('translate'):
    main(sys.argv[1:])
