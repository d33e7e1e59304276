# SPDX-License-Identifier: Apache-2.0
r"""Continues lines of text with a trained language model.

  python -m collab.generate --workdir=DIR --prompt='The statement'
  python -m collab.generate --workdir=DIR --temperature=0 < in.txt > out.txt

For each line of input, the same line and its continuation are printed, up to
the end of the line. A line that is too long gives an empty line; standard error
names it, and the exit code is 1.
"""

import sys

import collab
from collab import checks, command
from collab.training import sharding


def main(argv: list[str]) -> None:
  parser = command.Parser(__spec__, __doc__)
  parser.add_argument('--workdir', required=True, help='of a language model')
  parser.add_argument(
    '--prompt', type=str, help='default: lines of standard input'
  )
  parser.add_argument('--length', type=int, default=100, help='tokens to add')
  parser.add_argument('--temperature', type=float, default=1.0)
  parser.add_argument('--top_k', type=int, default=0, help='0 is all')
  parser.add_argument('--top_p', type=float, default=1.0)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--fsdp', type=int, default=1, help='devices to split the parameters over'
  )
  args = vars(parser.parse_args(argv))
  workdir, prompt = args.pop('workdir'), args.pop('prompt')
  run = collab.load(workdir, sharding.make_mesh(args.pop('fsdp')))
  run.words('stream')  # refuses another model before it waits for input
  with checks.located('--prompt is not UTF-8'):
    (prompt or '').encode()
  prompts = [prompt.strip()] if prompt is not None else command.stdin_lines()
  command.print_lines('generate', run.generate(list(prompts), **args))


if __name__ == '__main__':
  with command.errors_in_a_line('generate'):
    main(sys.argv[1:])
