# SPDX-License-Identifier: Apache-2.0
"""A run of a study as a job: its commands, its lock, its row."""

import fcntl
import pathlib
import shutil
import subprocess
import sys
import threading

from experiments import results, study


class Jobs:
  """What the threads of a sweep share, and what each of them does.

  Args:
    name: of the study.
    folder: of all results.
    planned: {name of a run: the run with the folders that its row shows}.
    collect: take finished runs only, start none.
  """

  def __init__(self, name, folder, planned, collect=False):
    self.name, self.folder, self.planned = name, folder, planned
    self.collect, self.stopping = collect, threading.Event()
    self.children, self.failed, self.recorded = {}, {}, set()

  def todo(self, run):
    """The commands that a run needs still, [] if all is recorded."""
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

  def make(self, run):
    """Makes a run, once no one else does; notes why it failed."""
    try:
      log = pathlib.Path(f'{run.workdir}.log')
      log.parent.mkdir(parents=True, exist_ok=True)
      # The log is the lock: a child inherits it, and has it while it lives,
      # though the sweep may not.
      with log.open('ab') as file:
        while not _locked(file):
          if self.stopping.wait(1):
            return
        self._make(run, file, log)
    except (ValueError, OSError) as e:
      self.failed[run.name] = ' '.join(str(e).split())

  def _make(self, run, file, log):
    if self.collect and not study.finished(run):
      return
    for command in self.todo(run):
      if self.stopping.is_set():
        return
      child = subprocess.Popen(
        [*_with_parent(), sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        start_new_session=True,  # Ctrl-C is for the sweep alone
      )
      self.children[run.name] = child, log
      if self.stopping.is_set():  # meanwhile
        child.terminate()
      code = child.wait()
      del self.children[run.name]
      if code:
        if not self.stopping.is_set():
          self.failed[run.name] = f'{_last_line(log)} (exit code {code})'
        return
    self.record(run)

  def record(self, run):
    """Notes a run's result, unless it was stopped before it had one."""
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
    """The row of a run or None, and whether it is whole, with examples."""
    row = results.find(run, self.planned[run.name], self.name, self.folder)
    return row, bool(row and row.get('arm') and row['examples'])

  def stop(self):
    """Children save and end; runs that did not begin do not."""
    self.stopping.set()
    for child, _ in list(self.children.values()):
      child.terminate()

  def status(self):
    """What the runs that are being made say of their steps."""
    shown = []
    for name, (_, log) in sorted(self.children.copy().items()):
      words = _last_line(log).split(',')[0]
      shown.append(f'{name} {words}' if words.startswith('step') else name)
    return ', '.join(shown)


def _locked(file):
  """Whether the lock of a file is ours now."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except BlockingIOError:
    return False


def _with_parent():
  """Ends a command as its parent ends, where the system can do that."""
  found = shutil.which('setpriv')
  return [found, '--pdeathsig', 'TERM'] if found else []


def _last_line(log):
  """Of a file, without blank ones, as text."""
  with log.open('rb') as file:
    file.seek(max(0, log.stat().st_size - 4096))
    lines = file.read().decode(errors='replace').split('\n')
  return next((x.strip() for x in reversed(lines) if x.strip()), '')
