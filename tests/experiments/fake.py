# SPDX-License-Identifier: Apache-2.0
"""A project in which train.py is a stand-in that takes no time.

It keeps what the real one keeps, of a config of nothing: run.json, a step that
it goes on from, result.json and examples.json; SIGTERM makes it save and end.
"""

import os
import subprocess
import sys

from tests import tiny

TRAIN = """
import ast, hashlib, json, os, pathlib, runpy, signal, sys, time

def save(path, value):
  path.write_text(json.dumps(value))

given = dict(word[2:].split('=', 1) for word in sys.argv[1:] if '=' in word)
folder = pathlib.Path(given['workdir'])
run = folder / 'run.json'
if not run.exists():
  c = runpy.run_path(given['config'])['get_config']('')
  for key, x in given.items():
    if key.startswith('config.'):
      c.update_from_flattened_dict({key[7:]: ast.literal_eval(x)})
  if c.data.broken:
    sys.exit('train.py: it is broken.')
  folder.mkdir(parents=True)
  command = ' '.join(['python', *sys.argv])
  save(run, dict(command=command, versions={}, config=c.to_dict()))
c = json.loads(run.read_text())['config']
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
saved = folder / 'step'
step = int(saved.read_text()) if saved.exists() else 0
save(folder / 'gpu', os.environ.get('CUDA_VISIBLE_DEVICES'))
with (folder / 'starts').open('a') as file:
  print(step, sorted(os.sched_getaffinity(0)), file=file)
if '--eval_only' not in sys.argv:
  while step < c['total_steps'] and not stopped:
    time.sleep(c['data']['seconds'])
    step += 1
    print(f'step {step}/{c["total_steps"]}, loss 1', flush=True)
    saved.write_text(str(step))
if step < c['total_steps']:
  print(f'Stopped and saved at step {step}.')
  sys.exit()
text = json.dumps(c, sort_keys=True)
key = hashlib.sha256(text.encode()).hexdigest()[:12]
save(folder / 'examples.json', dict(right=[0, 1, 1]))
result = dict(command='made', config_hash=key, seed=c['seed'], steps=step)
save(folder / 'result.json', result)
"""
CONFIG = """
from ml_collections import ConfigDict

def get_config(argument):
  return ConfigDict(dict(
    task={'name': 'image'}, data={'seconds': 0.0, 'broken': False},
    model={'attention': {'name': 'mha'}}, optim={}, seed=0,
    checkpoint={'keep': 1, 'best': '', 'average': 1, 'final': 'last'},
    every={'log': 1, 'eval': 1, 'checkpoint': 1},
    total_steps=3, init_from='', fsdp=1, tensor=1, rules='',
    accumulate=1, skip_nonfinite=0,
  ))
"""
STUDY = """
from experiments.study import Arm

ARMS = [
  Arm('a', 'config.py', {{'total_steps': {steps}, 'data.seconds': {seconds}}},
      seeds=(0, 1)),
  Arm('b', 'config.py', {{'data.broken': True}}),
  Arm('of_b', source='b', convert=('--attention=mqa',)),
  Arm('c', 'config.py', {{'total_steps': 2}}),
]
"""


def write(folder, steps=3, seconds=0.0):
  """A project with a study of four arms, in a folder; returns the folder."""
  (folder / 'experiments').symlink_to(tiny.ROOT / 'experiments')
  (folder / 'train.py').write_text(TRAIN)
  (folder / 'config.py').write_text(CONFIG)
  (folder / 'quick.py').write_text(STUDY.format(steps=steps, seconds=seconds))
  return folder


def start(
  folder, *options, study='quick.py', path=None, cache='', results='results'
):
  """The sweep as a process; path is where it finds other programs."""
  command = [sys.executable, '-m', 'experiments.sweep', str(study)]
  places = f'{folder}:{tiny.ROOT}'  # its own experiments first
  environ = dict(PYTHONPATH=places, PYTHONSAFEPATH='1', JAX_PLATFORMS='cpu')
  environ |= {} if path is None else dict(PATH=path)
  options = [f'--results={results}', *options] if results else options
  return subprocess.Popen(
    [*command, *options],
    cwd=folder,
    env=os.environ | environ | dict(JAX_COMPILATION_CACHE_DIR=cache),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
