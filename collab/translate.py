# SPDX-License-Identifier: Apache-2.0
r"""Translates lines of text with a trained run.

  python -m collab.translate --workdir=DIR < in.en > out.de

For each line of input one line is printed; an empty line stays empty. A line
that is too long gives an empty line; standard error names it, and the exit code
is 1.
"""

from collections.abc import Mapping, Sequence
import sys

from jax.sharding import Mesh

from collab import command, decoding, load_run, models
from collab.data.tokenizer import Tokenizer
from collab.tasks import wmt14
from collab.training import evaluation, sharding


def translate(
  model: models.EncoderDecoder,
  params: Mapping,
  tokenizer: Tokenizer,
  sentences: Sequence[str],
  beam: int = 4,
  alpha: float = 0.6,
  mesh: Mesh | None = None,
) -> list[str | Exception]:
  """Translates sentences, each to one line; '' stays ''.

  The result has an exception in place of a translation if the sentence is
  longer than the model supports, or if the model's outputs are not finite.
  Arguments as in wmt14.translations, and the mesh of all devices over which
  rows and, with fsdp, parameters are split.
  """
  ids, most = wmt14.encode(tokenizer, sentences), wmt14.longest(model)
  found = [''] * len(ids)
  for i, n in enumerate(map(len, ids)):
    if n > most:
      found[i] = ValueError(
        f'{n} tokens; with max_length={model.max_length} the model translates '
        f'at most {most}'
      )
  fit = [i for i, x in enumerate(sentences) if x and not found[i]]
  computed = wmt14.translations(
    model, tokenizer, [ids[i] for i in fit], beam, alpha
  )
  if fit:
    compute = evaluation.over_examples(model, mesh or sharding.make_mesh())
    rows = compute(params, computed)
    for i, *best in zip(fit, *rows, strict=True):
      found[i] = decoding.line(tokenizer, *best)
  return found


def main(argv: list[str]) -> None:
  parser = command.Parser(__spec__, __doc__)
  parser.add_argument('--workdir', required=True, help='of a translation run')
  parser.add_argument('--beam', type=int, help='default: that of the run')
  parser.add_argument('--alpha', type=float, help='length penalty, likewise')
  parser.add_argument(
    '--fsdp', type=int, default=1, help='devices to split the parameters over'
  )
  args = parser.parse_args(argv)
  mesh = sharding.make_mesh(args.fsdp)
  model, params, words, config = load_run.load(args.workdir, 'wmt14', mesh)
  beam = config.task.beam if args.beam is None else args.beam
  alpha = config.task.alpha if args.alpha is None else args.alpha
  lines = list(command.stdin_lines())
  found = translate(model, params, words, lines, beam, alpha, mesh)
  command.print_lines('translate', found)


if __name__ == '__main__':
  with command.errors_in_a_line('translate'):
    main(sys.argv[1:])
