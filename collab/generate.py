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
from jax.sharding import Mesh
import numpy as np

from collab import checks, command, decoding, load_run, models, tasks
from collab.data import examples
from collab.data.tokenizer import Tokenizer
from collab.runtime import plan
from collab.training import evaluation, sharding


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
  mesh: Mesh | None = None,
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
    mesh: mesh of all devices, over which rows and, with fsdp, parameters are
      split.
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
  ids = [[tokenizer.start_id, *x] for x in tokenizer.encode_batch(prompts)]
  decode = decoding.greedy
  if temperature:
    decode = functools.partial(
      decoding.sample, temperature=temperature, **within
    )
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
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  keys = fold_in(jax.random.key(seed), np.arange(len(ids)))
  keys = np.asarray(jax.random.key_data(keys))

  def make(at):
    more = dict(keys=keys[at]) if temperature else {}
    return examples.pad(encoded, at, P) | more

  if fit:
    compute = evaluation.over_examples(model, mesh or sharding.make_mesh())
    rows = functools.partial(_decode, tokenizer, decode, length)
    size = min(batch_size, len(fit))
    # In the order of `fit`, which is that of the examples.
    out = compute(params, tasks.Pass.over(rows, fit, size, make))
    for i, row, score in zip(fit, *out, strict=True):
      found[i] = decoding.line(tokenizer, [*ids[i], *row], score)
  return found


def _decode(tokenizer, decode, length, model, params, batch):
  """Decodes after prompts [B, P]; returns Decoded: [B, length], [B]."""
  B, P = batch['tokens'].shape
  random = {}
  if 'keys' in batch:
    random = dict(keys=jax.random.wrap_key_data(batch['keys']))
  return decode(
    decoding.step_of(model, params),
    decoding.empty_cache(model, B, P + length - 1),
    batch['tokens'],
    prompt_lengths=batch['lengths'],
    eos=tokenizer.eos_id,
    pad=tokenizer.pad_id,
    max_length=length,
    **random,
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
  parser.add_argument(
    '--fsdp', type=int, default=1, help='devices to split the parameters over'
  )
  args = vars(parser.parse_args(argv))
  workdir, prompt = args.pop('workdir'), args.pop('prompt')
  mesh = sharding.make_mesh(args.pop('fsdp'))
  model, params, words, _ = load_run.load(workdir, 'lm', mesh)
  with checks.located('--prompt is not UTF-8'):
    (prompt or '').encode()
  prompts = [prompt.strip()] if prompt is not None else command.stdin_lines()
  found = generate(model, params, words, list(prompts), mesh=mesh, **args)
  command.print_lines('generate', found)


if __name__ == '__main__':
  with command.errors_in_a_line('generate'):
    main(sys.argv[1:])
