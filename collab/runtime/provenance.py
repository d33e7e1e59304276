# SPDX-License-Identifier: Apache-2.0
"""Records where a result comes from: packages, machine and commit."""

import contextlib
import importlib.metadata
import pathlib
import platform
import shutil
import subprocess
import zlib

import jax


def versions() -> dict[str, str]:
  """Returns versions of packages, device, CPU and our commit, for a result."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'collab')
  return dict(
    python=platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
    devices=f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    cpu=_cpu_name(),
    commit=commit(pathlib.Path(__file__).parents[2]),
  )


def commit(folder: pathlib.Path) -> str:
  """Returns the commit of a git checkout, with + for changed files; else ''."""
  # A folder inside another project's checkout has no .git of its own.
  if not (folder / '.git').exists() or not shutil.which('git'):
    return ''
  describe = ['git', 'describe', '--always', '--exclude=*', '--dirty=+']
  return subprocess.run(
    describe, cwd=folder, capture_output=True, text=True
  ).stdout.strip()


def sources() -> str:
  """Hashes the files of this package: equal for equal code."""
  folder, crc = pathlib.Path(__file__).parents[1], 0
  for path in sorted(folder.rglob('*.py')):
    crc = zlib.crc32(str(path.relative_to(folder)).encode(), crc)
    crc = zlib.crc32(path.read_bytes(), crc)
  return f'{crc:08x}'


def _cpu_name():
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()
