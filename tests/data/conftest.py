# SPDX-License-Identifier: Apache-2.0
"""Data sets of TFDS in the folder of a test."""

import functools

import pytest

from collab.data.readers import prepared


@pytest.fixture
def prepared_here(tmp_path, monkeypatch):
  """Looks for prepared data sets in tmp_path only."""
  here = functools.partial(prepared.builder, data_dir=tmp_path)
  monkeypatch.setattr(prepared, 'builder', here)
