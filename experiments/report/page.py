# SPDX-License-Identifier: Apache-2.0
"""The templates of a page, which escape all text that is put into them."""

import pathlib

import jinja2

_ENVIRONMENT = jinja2.Environment(
  loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)
parts = _ENVIRONMENT.get_template('parts.html').module


def page(**fields):
  """The whole page.

  Args:
    **fields: title, outcome, done (whether that is good), facts; sections,
      {heading: HTML}; wide, whether results and cost may stand side by side.
  """
  return _ENVIRONMENT.get_template('page.html').render(fields)
