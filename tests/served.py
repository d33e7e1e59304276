# SPDX-License-Identifier: Apache-2.0
"""Command lines without a start of Python for each.

A child of this process is a server that has imported the commands once and
forks for each command line: the whole of a command runs.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
import subprocess
import sys

from tests import tiny

SERVER = r"""
import contextlib, io, json, os, runpy, sys, warnings
warnings.simplefilter('ignore')
for line in sys.stdin:
  folder, module, *argv = json.loads(line)
  if not os.fork():
    os.chdir(folder)
    sys.argv, code = [module, *argv], 0
    sys.stdin = io.TextIOWrapper(io.BytesIO())
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      try:
        runpy.run_module(module, run_name='__main__', alter_sys=True)
      except SystemExit as e:
        code = e.code or 0
        if isinstance(code, str):
          code, _ = 1, err.write(code + '\n')
      except BaseException as e:
        code, _ = 99, err.write(repr(e))
    sys.__stdout__.write(json.dumps([code, out.getvalue(), err.getvalue()]))
    sys.__stdout__.write('\n')
    sys.__stdout__.flush()
    os._exit(0)
  os.wait()
"""


@contextlib.contextmanager
def server(before: str) -> Iterator[Callable]:
  """Yields run(folder, module, arguments) -> (exit code, out, err).

  Args:
    before: what the server does before it forks: the slow imports.
  """
  process = subprocess.Popen(
    [sys.executable, '-c', before + SERVER],
    cwd=tiny.ROOT,
    env=os.environ | dict(JAX_PLATFORMS='cpu', PYTHONPATH=str(tiny.ROOT)),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )

  def run(folder, module, arguments):
    process.stdin.write(json.dumps([str(folder), module, *arguments]) + '\n')
    process.stdin.flush()
    return json.loads(process.stdout.readline())

  with process:
    yield run
    process.stdin.close()
