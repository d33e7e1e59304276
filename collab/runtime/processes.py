# SPDX-License-Identifier: Apache-2.0
"""Makes several processes, one or more a host, act as one run.

JAX's runtime connects them and moves the arrays. This module adds three things.
Work that has to be done once is done by one process, first or alone. What all
must have in common is compared before they compute. When a process is lost, all
others end with a line that names it. Messages use the key-value store of JAX's
runtime, because no collective works once a process is lost.

It is longer than 300 lines, because whoever waits for a message has to know how
a loss is noticed, and whoever notices one how all are told: one protocol.
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the public names lack the store
from jax.experimental import multihost_utils

from collab.io import json_text

BEAT = 1.0  # seconds between two heartbeats
JOINED = 300  # seconds for all processes to start
MINUTE, DAY = 60, 24 * 3600  # seconds that the others may need
# Beginnings of XLA runtime errors that the loss of another process can cause.
STATUS = re.compile(
  r'\b(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|'
  r'UNAVAILABLE|UNKNOWN): '
)

_over = threading.Event()  # all processes have finished, or this one failed
_names = itertools.count()  # of messages, equal on all processes
_kept = []  # callbacks referenced only from C
_telling = threading.Lock()  # taken once, by the thread that ends the process


def join() -> None:
  """Joins the processes of a run, if the environment says that it has several.

  The environment says so by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
  JAX_PROCESS_ID (launch.sh --local), by a Slurm step of several tasks, or by
  JAX_COORDINATOR_PORT on the hosts of a TPU pod. Afterwards only process 0 has
  a standard output.

  Raises:
    ValueError: a variable has an impossible value, or other processes do not
      start.
  """
  environ, patience = os.environ, _patience()
  in_step = 'SLURM_STEP_NODELIST' in environ
  if 'JAX_COORDINATOR_ADDRESS' in environ:
    n, me = _number('JAX_NUM_PROCESSES', 1), _number('JAX_PROCESS_ID', 0)
    if me >= n:
      raise ValueError(f'JAX_PROCESS_ID={me}; expected less than {n}.')
    found = dict(num_processes=n, process_id=me)
    found['cluster_detection_method'] = 'deactivate'
  elif (in_step and environ.get('SLURM_NTASKS', '1') != '1') or (
    'JAX_COORDINATOR_PORT' in environ
  ):
    found = {}
  else:
    return
  # SIGTERM ends a start that hangs; `stop_signal` catches it from then on.
  jax.config.update('jax_enable_preemption_service', False)
  _on_abort(_tell_of_start)
  # JAX's own timeout is for process 0; other losses are noticed here earlier.
  jax.distributed.initialize(
    **found,
    initialization_timeout=JOINED,
    heartbeat_timeout_seconds=3 * patience + 10,
  )
  # When JAX aborts from now on for another reason, JAX reports it.
  _on_abort(_tell_of_process_0 if jax.process_index() > 0 else lambda: None)
  if not _many():
    return
  if jax.process_index() > 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  threading.Thread(target=_watch, args=[patience], daemon=True).start()
  atexit.register(_part)


def check_devices() -> None:
  """Refuses devices that are not there, or that belong to a larger run.

  Raises:
    ValueError: JAX_PLATFORMS names other devices than there are, or this is one
      host of a TPU pod that was started by itself.
  """
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as e:  # JAX asserts that cuda exists
    raise ValueError(
      f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}: JAX finds no such '
      f'device here{f": {e}" if str(e) else ""}; JAX_PLATFORMS=cpu is anywhere.'
    ) from e
  if _client() is None and jax.process_count() > 1:
    raise ValueError(
      f'The devices are those of {jax.process_count()} hosts, but '
      'JAX_COORDINATOR_PORT is not set, so that this one would be alone: set '
      'it to one port, say 8476, on all of them; ./launch.sh --tpu does so.'
    )


def exchange(what: str, value: Any = None, limit: float = MINUTE) -> list:
  """Waits until all processes reach this call; returns the value of each.

  Args:
    what: names the call, for the error.
    value: anything that JSON can hold.
    limit: seconds for all to come.

  Raises:
    TimeoutError: some have not come; the message names them.
  """
  if not _many():
    return [value]
  key, text = _key(what), json.dumps(value, default=json_text.scalar)
  _client().key_value_set(f'{key}/{jax.process_index()}', text)
  try:
    _client().wait_at_barrier(key, int(1000 * limit))
  except jax.errors.JaxRuntimeError as e:
    came = _messages(f'{key}/')
    missing = [i for i in range(jax.process_count()) if i not in came]
    if not missing:  # another error
      raise
    names = ', '.join(map(str, missing))
    raise TimeoutError(
      f'Process {names} of {jax.process_count()} has not come to {what!r} '
      f'within {limit:g} s.'
    ) from e
  return [json.loads(text) for _, text in sorted(_messages(f'{key}/').items())]


def agree(what: str, facts: dict) -> None:
  """Refuses processes that differ from process 0 in a dict of facts.

  Raises:
    ValueError: on all processes; the message names one, and what differs.
  """
  found = exchange(what, dict(host=socket.gethostname(), facts=facts))
  wanted = found[0]['facts']
  for process, other in enumerate(found):
    got = other['facts']
    if differing := [
      f'{name} is {got.get(name)!r}, there {wanted.get(name)!r}'
      for name in wanted | got
      if got.get(name) != wanted.get(name)
    ]:
      raise ValueError(
        f'process {process} of {len(found)}, on {other["host"]}, differs from '
        f'process 0, on {found[0]["host"]}: {"; ".join(differing[:8])}.'
      )


@contextlib.contextmanager
def first(what: str) -> Iterator[None]:
  """Runs the body on process 0 first; the others then find what it writes."""
  if jax.process_index() > 0:
    exchange(what, limit=DAY)
  yield
  if jax.process_index() == 0:
    exchange(what, limit=DAY)


def alone(what: str, make: Callable) -> Any:
  """Runs make() on process 0 and broadcasts its result, which JSON can hold."""
  if not _many():
    return make()
  key = _key(what)
  if jax.process_index() > 0:
    return json.loads(_client().blocking_key_value_get(key, 1000 * DAY))
  value = make()
  _client().key_value_set(key, json.dumps(value, default=json_text.scalar))
  return value


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
  """Makes a function of the last step: whether SIGTERM asks the run to stop.

  The function has to be called after every step. If any process gets the
  signal, all processes stop after the same step.
  """
  if _many():  # JAX's runtime catches the signal
    jax.config.update('jax_enable_preemption_service', True)
    distributed.global_state.initialize_preemption_sync_manager()
    yield multihost_utils.reached_preemption_sync_point
    return
  got = []
  before = signal.signal(signal.SIGTERM, lambda *signals: got.append(signals))
  try:
    yield lambda step: bool(got)
  finally:
    signal.signal(signal.SIGTERM, before)


def end(message: str) -> NoReturn:
  """Ends this process at once, with a line on standard error."""
  print(f'train.py: {message}', file=sys.stderr, flush=True)
  os._exit(1)


def leave(error: Exception) -> None:
  """Ends all processes when this one ends with an error.

  If the loss of another process may have caused the error, this waits to learn
  which one was lost.
  """
  if not _many():
    return
  if STATUS.search(str(error)):
    time.sleep(_patience() + 6 * BEAT)
  _over.set()
  _report(jax.process_index())
  atexit.register(_exit)  # runs before JAX waits for the others


def _exit():
  sys.stdout.flush()
  if jax.process_index() == 0:
    time.sleep(4 * BEAT)  # lets the others read the message
  os._exit(1)


def _part():
  exchange('the end', limit=DAY)
  _over.set()


def _many():
  return _client() is not None and jax.process_count() > 1


def _client():
  return distributed.global_state.client


def _key(what):
  return f'collab/{next(_names)} {what}'


def _messages(folder):
  """{process: text} of the messages <folder><process>."""
  found = _client().key_value_dir_get(folder)
  return {int(key.rpartition('/')[2]): text for key, text in found}


def _number(name, least, default=''):
  text = os.environ.get(name, default)
  if not text.isdecimal() or int(text) < least:
    raise ValueError(f'{name}={text}; expected a number, at least {least}.')
  return int(text)


def _patience():
  """Returns the seconds without a heartbeat after which a process is lost."""
  return _number('COLLAB_LOST_AFTER', 2, '30')


def _watch(patience):
  """Sends heartbeats; on process 0, also checks those of the others.

  Process 0 counts its own beats instead of seconds. So no process is declared
  lost after all of them were suspended for a while.
  """
  me, n = jax.process_index(), jax.process_count()
  silent, last = dict.fromkeys(range(1, n), 0), {}
  for beat in itertools.count():
    try:
      _client().key_value_set(f'collab/alive/{me}', f'{beat}', True)
      told = _client().key_value_dir_get('collab/lost/')
      if told and not _over.is_set():
        _tell(told[0][1])
      signs = _messages('collab/alive/') if me == 0 else {}
    except Exception:
      if me > 0 and not _over.is_set():
        _tell(0)
      return
    for other, sign in signs.items():
      if sign != last.get(other):
        silent[other], last[other] = 0, sign
    for other in silent:
      silent[other] += 1
      if me == 0 and silent[other] * BEAT > patience:
        _report(other)
        time.sleep(4 * BEAT)  # lets the others read the message
        _tell(other)
    if _over.wait(BEAT):
      return


def _report(process):
  """Tells all processes that a process is lost."""
  with contextlib.suppress(Exception):  # nobody may be left to receive it
    _client().key_value_set('collab/lost/process', f'{process}', True)


def _tell(process):
  """Ends this process with a line that names the lost one."""
  _telling.acquire()  # never released
  end(
    f'process {process} of {jax.process_count()} is lost (killed, failed or '
    f'silent for {_patience()} s), so process {jax.process_index()} stops too; '
    'start all again to go on from the last checkpoint.'
  )


def _on_abort(tell):
  """Calls a function before JAX's runtime aborts, which raises nothing."""

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def handle(_):
    tell()

  ctypes.CDLL(None).signal(signal.SIGABRT, handle)
  _kept.append(handle)


def _tell_of_start():
  end(
    f'not all processes of the run have started within {JOINED} s, or they do '
    'not reach each other.'
  )


def _tell_of_process_0():
  if not _answers(distributed.global_state.coordinator_address):
    _tell(0)


def _answers(address):
  """Checks for a gRPC server, which sends the first byte by itself."""
  host, port = address.rsplit(':', 1)
  try:
    with socket.create_connection((host, int(port)), timeout=5) as connection:
      return bool(connection.recv(1))
  except OSError:
    return False
