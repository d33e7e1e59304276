# SPDX-License-Identifier: Apache-2.0
"""Runs a study's runs as jobs: open commands, locks, and rows of results."""

from collections.abc import Mapping
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import threading

from experiments import results, study


class Jobs:
  """The jobs of a sweep; all threads share one object of this class.

  Args:
    name: name of the study.
    folder: folder of all results.
    planned: {name of a run: the run with the folders that its row shows}.
    collect: whether to record finished runs only, and start none.
  """

  def __init__(
    self,
    name: str,
    folder: str | pathlib.Path,
    planned: Mapping[str, study.Run],
    collect: bool = False,
  ):
    self.name, self.folder, self.planned = name, folder, planned
    self.collect, self.stopping = collect, threading.Event()
    self.children, self.failed, self.recorded = {}, {}, set()

  def todo(self, run: study.Run) -> list[list[str]]:
    """Lists the commands that are left to run, [] if all is recorded."""
    row, whole = self._row(run)
    if whole:
      return []
    workdir = pathlib.Path(run.workdir)
    if study.finished(run):
      have = (workdir / 'examples.json').exists()
      again = ['train.py', f'--workdir={run.workdir}', '--eval_only']
      return [] if have else [again]
    if row:
      return []
    commands = study.commands(run)
    return commands[1:] if run.source and workdir.exists() else commands

  def make(self, run: study.Run, variables: dict[str, str]) -> None:
    """Makes a run unless another process does; keeps the reason if it fails.

    Its processes get `variables` added to their environment.
    """
    try:
      log = pathlib.Path(f'{run.workdir}.log')
      log.parent.mkdir(parents=True, exist_ok=True)
      # The log is also the lock. A child process inherits it and holds it while
      # it lives, even if the sweep has ended.
      with log.open('ab') as file:
        while not _locked(file):
          if self.stopping.wait(1):
            return
        self._make(run, variables, file, log)
    except (ValueError, OSError) as e:
      self.failed[run.name] = ' '.join(str(e).split())

  def _make(self, run, variables, file, log):
    if self.collect and not study.finished(run):
      return
    for command in self.todo(run):
      if self.stopping.is_set():
        return
      child = subprocess.Popen(
        [*with_parent(), sys.executable, *command],
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        start_new_session=True,  # Ctrl-C goes to the sweep alone
      )
      self.children[run.name] = child, log
      if self.stopping.is_set():  # the sweep has stopped meanwhile
        child.terminate()
      code = child.wait()
      del self.children[run.name]
      if code:
        if not self.stopping.is_set():
          self.failed[run.name] = f'{_last_line(log)} (exit code {code})'
        return
    self.record(run)

  def record(self, run: study.Run) -> None:
    """Records a run's result, unless it was stopped before it had one."""
    row, whole = self._row(run)
    result = whole or study.finished(run) or row
    if result:
      if not whole:
        planned = self.planned[run.name]
        results.record(run, planned, result, self.name, self.folder)
      self.recorded.add(run.name)
    elif not self.stopping.is_set():
      last = _last_line(pathlib.Path(f'{run.workdir}.log'))
      self.failed[run.name] = f'{last} (no result)'

  def _row(self, run):
    """Returns the row of a run or None, and whether it is complete."""
    row = results.find(run, self.planned[run.name], self.name, self.folder)
    return row, bool(row and row.get('arm') and row['examples'])

  def stop(self) -> None:
    """Tells running children to save and end, and starts no other run."""
    self.stopping.set()
    for child, _ in list(self.children.values()):
      child.terminate()

  def status(self) -> str:
    """Describes the running jobs and their steps in a line."""
    shown = []
    for name, (_, log) in sorted(self.children.copy().items()):
      words = _last_line(log).split(',')[0]
      shown.append(f'{name} {words}' if words.startswith('step') else name)
    return ', '.join(shown)


def _locked(file):
  """Tries to lock a file; returns whether this process has the lock."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except BlockingIOError:
    return False


def with_parent():
  """Returns a command prefix that ends a child with its parent, if possible."""
  found = shutil.which('setpriv')
  return [found, '--pdeathsig', 'TERM'] if found else []


def _last_line(log):
  """Returns the last line of a log that is not blank."""
  with log.open('rb') as file:
    file.seek(max(0, log.stat().st_size - 4096))
    lines = file.read().decode(errors='replace').split('\n')
  return next((x.strip() for x in reversed(lines) if x.strip()), '')
