# SPDX-License-Identifier: Apache-2.0
"""The parts of an HTML page. All text comes in plain and is escaped here."""

from html import escape
import pathlib
import string

LONG = 22  # letters
TEMPLATE = pathlib.Path(__file__).with_name('page.html')


def page(title, head, sections, kind=''):
  """The whole page.

  Args:
    title: plain text.
    head: HTML below the title.
    sections: {heading: HTML}; those without HTML are left out.
    kind: 'two' for results and cost side by side where there is room.
  """
  shown = {name: body for name, body in sections.items() if body}
  template = string.Template(TEMPLATE.read_text('utf-8'))
  return template.substitute(
    title=escape(title),
    head=head,
    kind=kind,
    nav=' '.join(
      f'<a href="#{_id(name)}">{escape(name)}</a>' for name in shown
    ),
    body='\n'.join(
      f'<section id="{_id(name)}"><h2>{escape(name)}</h2>\n{body}</section>'
      for name, body in shown.items()
    ),
  )


def paragraph(text, kind=''):
  return f'<p class="{kind}">{escape(text)}</p>'


def code(text):
  return f'<pre>{escape(text)}</pre>'


def details(summary, body, opened=False):
  """`body`, which is HTML, behind a summary, plain text."""
  state = ' open' if opened else ''
  return f'<details{state}><summary>{escape(summary)}</summary>{body}</details>'


def table(head, rows, caption=''):
  """A table; the first cell of a row names it.

  Args:
    head: list of str, or () for a table of names and words.
    rows: lists of str.
    caption: of the table.
  """
  about = (
    f'<caption><span>{escape(caption)}</span></caption>' if caption else ''
  )
  top = ''
  if head:
    cells = ''.join(f'<th scope="col">{escape(x)}</th>' for x in head)
    top = f'<thead><tr>{cells}</tr></thead>'
  lines = []
  for name, *cells in rows:
    cells = ''.join(f'<td{_wide(x)}>{escape(x)}</td>' for x in cells)
    name = f'<th scope="row"{_wide(name)}>{escape(name)}</th>'
    lines.append(f'<tr>{name}{cells}</tr>')
  kind = '' if head else ' class="words"'
  return (
    '<div class="scroll" tabindex="0" role="region" '
    f'aria-label="{escape(caption or "Table")}"><table{kind}>{about}{top}'
    f'<tbody>{"".join(lines)}</tbody></table></div>'
  )


def _wide(text):
  """A cell of many letters may be broken anywhere, others nowhere."""
  return ' class="long"' if len(text) > LONG else ''


def _id(name):
  return escape(name.lower().replace(' ', '-'))
