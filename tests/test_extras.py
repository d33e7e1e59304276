# SPDX-License-Identifier: Apache-2.0
"""The layers with JAX, Flax and NumPy alone; what needs more says so.

Environments are made of links to the packages of this one: those that some
requirements bring, and `collab` as the wheel has it, without its project.
"""

import importlib.metadata
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement
import pytest

from collab import attention
from tests import tiny

TOML = tomllib.loads((tiny.ROOT / 'pyproject.toml').read_text())
PROJECT = TOML['project']
WHEEL = TOML['tool']['hatch']['build']['targets']['wheel']
EXTRAS = PROJECT['optional-dependencies']
CORE = {'jax', 'flax', 'numpy'}


def closure(requirements):
  """Distributions that pip installs for some requirements."""
  found, waiting = {}, [(Requirement(x), '') for x in requirements]
  while waiting:
    one, extra = waiting.pop()
    if one.marker and not one.marker.evaluate(dict(extra=extra)):
      continue
    for extra in ('', *one.extras):
      if (one.name, extra) not in found:
        distribution = importlib.metadata.distribution(one.name)
        found[one.name, extra] = distribution
        lines = distribution.requires or ()
        waiting += [(Requirement(x), extra) for x in lines]
  return {x.metadata['Name']: x for x in found.values()}.values()


def environment(folder, requirements):
  """A folder for PYTHONPATH, with collab and what they bring."""
  folder.mkdir()
  for one in closure(requirements):
    tops = {file.parts[0] for file in one.files} - {'..', '__pycache__'}
    for top in tops:
      if not (folder / top).exists():
        (folder / top).symlink_to(one.locate_file(top))
  (folder / 'collab').mkdir()
  for path in (tiny.ROOT / 'collab').iterdir():
    (folder / 'collab' / path.name).symlink_to(path)
  for path, there in WHEEL['force-include'].items():
    (folder / there).parent.mkdir(exist_ok=True)
    (folder / there).symlink_to(tiny.ROOT / path)
  about = folder / 'collab-0.1.0.dist-info'
  about.mkdir()
  lines = ['Metadata-Version: 2.4', 'Name: collab', 'Version: 0.1.0']
  lines += [f'Requires-Dist: {x}' for x in PROJECT['dependencies']]
  for name, some in EXTRAS.items():
    lines += [f"Requires-Dist: {x}; extra == '{name}'" for x in some]
  (about / 'METADATA').write_text('\n'.join(lines) + '\n')
  return folder


def run(folder, *words):
  """Python with this environment and the standard library, no more."""
  return subprocess.run(
    [sys.executable, '-S', '-P', *words],
    cwd=folder.parent,
    env=dict(PYTHONPATH=str(folder), JAX_PLATFORMS='cpu', HOME='/nowhere'),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


@pytest.fixture(scope='module')
def core(tmp_path_factory):
  folder = tmp_path_factory.mktemp('core') / 'site'
  return environment(folder, PROJECT['dependencies'])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole') / 'site'
  return environment(folder, [*PROJECT['dependencies'], *EXTRAS['train']])


LAYERS = """
import pkgutil
import jax, jax.numpy as jnp
from collab import accounting, attention, models
for package in (attention, models):
  for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):
    __import__(module.name)
x = jnp.ones((2, 5, 6))
fields = dict(
  collab=dict(shared_dim=4),
  mla=dict(latent_dim=3),
  gqa=dict(kv_heads=1),
  gla=dict(latent_dim=4),
  gta=dict(kv_heads=1),
  mfa=dict(query_dim=3),
  mfa_kr=dict(query_dim=3),
  linformer=dict(length=5, projected_length=3),
)
for name in attention.names():
  layer = attention.build(name, num_heads=2, **fields.get(name, {}))
  y, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
  print(name, y.shape)
"""


def test_layers_need_jax_flax_and_numpy_alone(core):
  assert {Requirement(x).name for x in PROJECT['dependencies']} == CORE
  done = run(core, '-c', LAYERS)
  assert done.returncode == 0, done.stderr
  assert set(done.stdout.splitlines()) == {
    f'{name} (2, 5, 6)' for name in attention.names()
  }


COMMANDS = ('generate', 'translate', 'evaluate', 'accounting', 'convert')


@pytest.mark.parametrize('name', [*COMMANDS, 'convert.redundancy'])
def test_command_without_the_extra_is_one_line(core, name):
  done = run(core, '-m', f'collab.{name}', '--help')
  assert (done.returncode, done.stdout) == (1, '')
  (line,) = done.stderr.splitlines()
  assert line.startswith('collab needs ')
  assert line.endswith("for this: pip install 'collab[train]'")
  assert 'tensorflow-datasets' in line


def test_the_list_needs_no_extra(core):
  done = run(core, '-m', 'collab', 'list')
  assert (done.returncode, done.stderr) == (0, '')
  for line in ('  mha  ', '  wmt14 ', '  encoder_decoder ', '  lm  '):
    assert line in done.stdout


@pytest.mark.parametrize('words', [['train'], ['describe', 'configs/lm.py']])
def test_a_subcommand_names_the_extra(core, words):
  done = run(core, '-m', 'collab', *words)
  assert (done.returncode, done.stdout) == (1, '')
  (line,) = done.stderr.splitlines()
  assert line.startswith('collab: collab needs ')
  assert line.endswith("pip install 'collab[train]'")


PACKAGES = ('data', 'metrics', 'training', 'convert', 'inference', 'tasks.lm')


@pytest.mark.parametrize(
  'statement',
  [*(f'import collab.{x}' for x in PACKAGES), 'from collab import load'],
)
def test_package_without_the_extra_names_it(core, statement):
  done = run(core, '-c', statement)
  last = done.stderr.splitlines()[-1]
  assert last.startswith('ImportError: collab needs ')
  assert last.endswith("pip install 'collab[train]'")


def test_url_without_the_extra_names_it(core):
  done = run(core, '-c', "from collab.io import buckets as b; b.at('gs://b/x')")
  assert done.stderr.splitlines()[-1] == (
    "ValueError: gs://b/x needs gcsfs: pip install 'collab[gcs]'"
  )


IMPORT_ALL = """
import pkgutil, collab
for module in pkgutil.walk_packages(collab.__path__, 'collab.'):
  if not module.name.endswith('__main__'):
    __import__(module.name)
import collab.accounting.__main__, collab.convert.__main__
"""


def test_wheel_satisfies_its_own_imports(whole):
  """Without configs and experiments, which it does not bring."""
  done = run(whole, '-W', 'ignore', '-c', IMPORT_ALL)
  assert done.returncode == 0, done.stderr


def test_wheel_trains_by_its_own_configs(whole):
  words = ['-W', 'ignore', '-m', 'collab', 'train']
  done = run(whole, *words, '--config=configs/lm.py:tiny')
  assert (done.returncode, done.stdout) == (1, '')
  assert 'collab/project/configs/lm.py:tiny' in done.stderr
  assert "'tiny'; there are wikitext103" in done.stderr
  done = run(whole, *words[:-1], 'sweep')
  assert done.stderr == 'collab: sweep needs a clone of the repository.\n'


def test_accounting_reads_a_config_anywhere(whole, tmp_path):
  text = (tiny.ROOT / 'configs' / 'lm.py').read_text()
  (tmp_path / 'of_project.py').write_text(text)
  (tmp_path / 'x_alone.py').write_text("""
from ml_collections import ConfigDict
attention = dict(name='mha', num_heads=2)
model = dict(name='decoder', dim=8, mlp_dim=8, num_layers=1, vocab_size=7)
model |= dict(max_length=9, attention=attention)
get_config = lambda _: ConfigDict(dict(model=model, data=dict(row_length=9)))
""")
  words = ['-W', 'ignore', '-m', 'collab.accounting', f'--out={tmp_path}']
  done = run(whole, *words, f'--config={tmp_path}/x_alone.py')
  assert done.returncode == 0, done.stderr
  assert '|     mha |' in done.stdout
  done = run(whole, *words, f'--config={tmp_path}/of_project.py')
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr == (
    f"accounting: {tmp_path}/of_project.py fails: No module named 'configs'\n"
  )
