# SPDX-License-Identifier: Apache-2.0
"""Loads the HTML templates of a page; they escape all text."""

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
# Arguments: title, outcome, done (whether the run finished), facts, sections
# {heading: HTML}, and wide (whether results and cost fit side by side).
whole = _ENVIRONMENT.get_template('page.html')
