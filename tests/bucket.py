# SPDX-License-Identifier: Apache-2.0
"""A bucket for tests: a server of the storage API in this process."""

import contextlib
import http
import logging
import socket
from unittest import mock

from gcp_storage_emulator import exceptions, server
from gcp_storage_emulator.handlers import objects


@contextlib.contextmanager
def served():
  """Serves gs://bucket, in memory; yields the environment of its users."""
  logging.getLogger('gcp_storage_emulator').setLevel(logging.CRITICAL)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  with contextlib.ExitStack() as stack:
    for name in ('_media_upload', '_multipart_upload', 'download'):
      handler = _conditional(getattr(objects, name))
      stack.enter_context(mock.patch.object(objects, name, handler))
    stack.enter_context(
      server.create_server(
        'localhost', port, in_memory=True, default_bucket='bucket'
      )
    )
    address = f'http://localhost:{port}'
    yield dict(
      STORAGE_EMULATOR_HOST=address,
      TENSORSTORE_GCS_HTTP_URL=address,
      GOOGLE_AUTH_TOKEN_FOR_TESTING='any',
      GOOGLE_CLOUD_PROJECT='any',
      GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT='false',  # asks for credentials
      no_proxy='localhost',
    )


def _conditional(handler):
  """A handler with generations as conditions, which this server lacks.

  It serves one request at a time, so that nothing comes in between.
  """

  def checked(request, response, storage):
    query, name = request.query, request.params.get('object_id')
    if not name:
      name = query.get('name', [''])[0] or request.data['meta']['name']
    try:
      found = storage.get_file_obj(request.params['bucket_name'], name)
    except exceptions.NotFound:
      found = dict(generation='0')
    same = [found['generation']]
    if query.get('ifGenerationMatch', same) != same:
      response.status = http.HTTPStatus.PRECONDITION_FAILED
    elif query.get('ifGenerationNotMatch') == same and same != ['0']:
      response.status = http.HTTPStatus.NOT_MODIFIED
    else:
      response['x-goog-generation'] = same[0]
      handler(request, response, storage)

  return checked
