# SPDX-License-Identifier: Apache-2.0
"""A corpus of digit words and a run that takes seconds, for the tests."""

import os
import pathlib
import subprocess
import sys

import numpy as np

from collab.io import buckets
from collab.training import evaluation, logs, sharding
from configs import wmt14_mhe_mul

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = 'configs/wmt14_mhe_mul.py:sample'
WORDS = dict(
  en='zero one two three four five six seven eight nine',
  de='null eins zwei drei vier fünf sechs sieben acht neun',
)
# Errors, but for those of pyproject.toml, and what ml_collections does.
WARNINGS = (
  '-Werror',
  '-Wignore:Error reading persistent compilation cache entry:UserWarning',
  '-Wignore:the load_module:DeprecationWarning',
)
# What makes the sample's config small: 9,000 parameters, 12 steps.
SMALL = {
  'task.beam': 2,
  'data.vocab_size': 300,
  'data.row_length': 24,
  'data.batch_size': 8,
  'model.dim': 16,
  'model.mlp_dim': 32,
  'model.encoder_layers': 1,
  'model.decoder_layers': 1,
  'model.max_length': 64,
  'model.norm': 'post',
  'model.dropout': 0.1,
  'model.attention.num_heads': 2,
  'optim.lr': 3e-3,
  'optim.schedule': 'inverse_sqrt',
  'optim.warmup_steps': 4,
  'total_steps': 12,
  'every.log': 1,
  'every.eval': 4,
  'every.checkpoint': 3,
  'checkpoint.keep': 2,
  'checkpoint.average': 2,
}

# The same of a language model, of which most of the time is spent importing.
SMALL_LM = {
  'data.vocab_size': 300,
  'data.row_length': 16,
  'data.batch_size': 8,
  'data.eval_stride': 8,
  'model.dim': 16,
  'model.num_layers': 1,
  'model.mlp_dim': 256,  # some leaves are large enough for FSDP to split
  'model.max_length': 16,
  'model.attention.num_heads': 2,
  'optim.warmup_steps': 4,
  'total_steps': 12,
  'every.log': 1,
  'every.eval': 6,
  'every.checkpoint': 3,
}


def write_corpus(folder, train=200, val=11, test=7):
  """Plain parallel text of 1 to 5 words a line; returns the folder."""
  rng = np.random.default_rng(0)
  folder.mkdir(parents=True, exist_ok=True)
  for split, n in dict(train=train, val=val, test=test).items():
    rows = [rng.integers(0, 10, rng.integers(1, 6)) for _ in range(n)]
    for side, words in WORDS.items():
      lines = [' '.join(words.split()[i] for i in row) for row in rows]
      write_lines(folder / f'{split}.{side}', lines)
  return folder


def write_text(folder):
  """A language model's text: one side of a corpus."""
  write_corpus(folder, 300, 30, 30)
  for path in folder.glob('*.de'):
    path.unlink()
  return folder


def write_lines(path, lines):
  path.write_text(''.join(f'{line}\n' for line in lines), 'utf-8')


def config(corpus, **changes):
  """The small config on a corpus; a__b=1 sets a.b."""
  c = wmt14_mhe_mul.get_config('sample')
  changes = {key.replace('__', '.'): x for key, x in changes.items()}
  c.update_from_flattened_dict(SMALL | {'data.path': str(corpus)} | changes)
  return c.lock()


def command(corpus, workdir, **changes):
  """What a user types for the run of `config`."""
  changes = {key.replace('__', '.'): x for key, x in changes.items()}
  changes = SMALL | {'data.path': corpus} | changes
  flags = [f'--config.{key}={value}' for key, value in changes.items()]
  return [f'--config={CONFIG}', f'--workdir={workdir}', *flags]


def lm_command(text, workdir, **changes):
  """What a user types to train SMALL_LM; a__b=1 sets a.b."""
  changes = {key.replace('__', '.'): x for key, x in changes.items()}
  changes = SMALL_LM | {'data.path': text} | changes
  flags = [f'--config.{key}={value}' for key, value in changes.items()]
  config = '--config=configs/lm.py:sample'
  return [config, f'--workdir={workdir}', *flags]


def environ(cache, **more):
  """Of train.py, whose programs, quick ones as well, are kept in a folder."""
  return dict(
    JAX_PLATFORMS='cpu',
    JAX_COMPILATION_CACHE_DIR=str(cache),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
    **more,
  )


def start(arguments, cache, cwd=ROOT, **more):
  """train.py as a process; more of its environment by keywords."""
  return subprocess.Popen(
    [sys.executable, *WARNINGS, ROOT / 'train.py', *arguments],
    cwd=cwd,
    env=os.environ | environ(cache, **more),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  """(exit code, standard output, standard error)."""
  try:
    out, err = process.communicate(timeout=300)
  finally:
    process.kill()
  return process.returncode, out, err


def train(arguments, cache, **options):
  return finish(start(arguments, cache, **options))


def rows(workdir):
  """The rows of metrics.jsonl without what depends on the clock."""
  return [
    {name: x for name, x in row.items() if not logs.is_of_machine(name)}
    for row in logs.read_rows(buckets.at(workdir) / 'metrics.jsonl')
  ]


def evaluate(task, model, params, split):
  """Scores and examples of a task, as train.py has them."""
  return evaluation.build(task, model, sharding.make_mesh())(params, split)


def evaluation_of(**scores):
  """Stands for evaluation.build where the scores do not matter."""
  return lambda task, model, mesh: lambda params, split: (scores, {})
