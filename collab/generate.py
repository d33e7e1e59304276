# SPDX-License-Identifier: Apache-2.0
r"""Continues lines of text with a trained language model.

  python -m collab.generate --workdir=DIR --prompt='The statement'
  python -m collab.generate --workdir=DIR --temperature=0 < in.txt > out.txt

For each line of input, the same line and its continuation are printed, up to
the end of the line. A line that is too long gives an empty line; standard error
names it, and the exit code is 1.
"""

from collections.abc import Mapping, Sequence
import functools
import sys

import jax
import numpy as np

from collab import checks, command, decoding, load_run, models
from collab.data import examples
from collab.data.tokenizer import Tokenizer
from collab.runtime import plan


def generate(
  model: models.Decoder,
  params: Mapping,
  tokenizer: Tokenizer,
  prompts: Sequence[str],
  *,
  length: int = 100,
  temperature: float = 1.0,
  seed: int = 0,
  batch_size: int = 16,
  **within: float,
) -> list[str | Exception]:
  """Continues prompts; returns lines of text that begin with them.

  Args:
    model: Decoder.
    params: its parameters.
    tokenizer: data.tokenizer.Tokenizer.
    prompts: list of str, which may be empty.
    length: maximum number of tokens to add to each.
    temperature: 0 is greedy; see `decoding.sample`.
    seed: seed of the random choices, which also depend on a line's place.
    batch_size: prompts at a time.
    **within: top_k and top_p of `decoding.sample`.

  Returns:
    A list with a line for each prompt. It has an exception instead if prompt
    and `length` exceed the model's max_length, or if outputs are not finite.

  Raises:
    ValueError: length < 1, or an argument that `decoding.sample` refuses.
  """
  checks.at_least('length', length, 1)
  checks.within('seed', seed, *plan.SEEDS)
  decoding.check_within(**within)  # whatever the temperature
  # A prompt follows the end of a line, as lines did in training.
  ids = [[tokenizer.eos_id, *x] for x in tokenizer.encode_batch(prompts)]
  decode = decoding.greedy
  if temperature:
    decode = functools.partial(
      decoding.sample, temperature=temperature, **within
    )
  run = jax.jit(functools.partial(_decode, model, tokenizer, decode, length))
  found = [None] * len(ids)
  for i, n in enumerate(map(len, ids)):
    need = n + length - 1  # the last token is not fed back
    if need > model.max_length:
      found[i] = ValueError(
        f'{n} tokens; with length={length} the model needs '
        f'max_length={need}, it has {model.max_length}'
      )
  fit = [i for i, error in enumerate(found) if not error]
  encoded = examples.collect((x, len(x)) for x in ids)
  P = int(encoded.lengths[fit].max(initial=0))
  size = min(batch_size, len(fit))
  for start in range(0, len(fit), batch_size):
    places = fit[start : start + size]
    rows = examples.pad(encoded, np.resize(places, size), P)
    keys = {}
    if temperature:
      keys = dict(key=jax.random.fold_in(jax.random.key(seed), start))
    out = jax.device_get(run(params, rows['tokens'], rows['lengths'], keys))
    for i, row, score in zip(places, *out, strict=False):
      found[i] = decoding.line(tokenizer, [*ids[i], *row], score)
  return found


def _decode(model, tokenizer, decode, length, params, prompt, lengths, keys):
  """Decodes after the prompt [B, P]; returns Decoded: [B, length], [B]."""
  B, P = prompt.shape
  return decode(
    decoding.step_of(model, params),
    decoding.empty_cache(model, B, P + length - 1),
    prompt,
    prompt_lengths=lengths,
    eos=tokenizer.eos_id,
    pad=tokenizer.pad_id,
    max_length=length,
    **keys,
  )


def main(argv: list[str]) -> None:
  parser = command.Parser(__spec__, __doc__)
  parser.add_argument('--workdir', required=True, help='of a run of lm')
  parser.add_argument(
    '--prompt', type=str, help='default: lines of standard input'
  )
  parser.add_argument('--length', type=int, default=100, help='tokens to add')
  parser.add_argument('--temperature', type=float, default=1.0)
  parser.add_argument('--top_k', type=int, default=0, help='0 is all')
  parser.add_argument('--top_p', type=float, default=1.0)
  parser.add_argument('--seed', type=int, default=0)
  args = vars(parser.parse_args(argv))
  workdir, prompt = args.pop('workdir'), args.pop('prompt')
  model, params, words, _ = load_run.load(workdir, 'lm')
  with checks.located('--prompt is not UTF-8'):
    (prompt or '').encode()
  prompts = [prompt.strip()] if prompt is not None else command.stdin_lines()
  found = generate(model, params, words, list(prompts), **args)
  command.print_lines('generate', found)


if __name__ == '__main__':
  with command.errors_in_a_line('generate'):
    main(sys.argv[1:])
