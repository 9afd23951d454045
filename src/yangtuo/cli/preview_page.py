"""The page of `yangtuo preview --html`: one file, nothing loaded from elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from yangtuo import output
from yangtuo.data.token_view import TokenView
from yangtuo.i18n import tr

_PAGE = """<!doctype html>
<html lang="zh">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>yangtuo preview</title>
<style>
  :root { color-scheme: light dark; --back: #fff; --text: #1d2129; --dim: #7b8190; --line: #e3e5ea;
          --trained: #e3f6e8; --trained-text: #0b6b2f; --end: #0b8a3e; --bytes: #b26a00; }
  @media (prefers-color-scheme: dark) {
    :root { --back: #16181d; --text: #e6e8ec; --dim: #868d9c; --line: #2b2f38;
            --trained: #143222; --trained-text: #8fe3ad; --end: #2fb867; --bytes: #f0b45a; }
  }
  body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--back); color: var(--text);
         font: 16px/1.7 system-ui, "Noto Sans SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
  h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
  .legend { color: var(--dim); margin: 0 0 1.5rem; }
  section { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: 0 0 1rem; }
  h2 { font-size: .9rem; font-weight: 600; margin: 0 0 .5rem; overflow-wrap: anywhere; }
  .row { white-space: pre-wrap; overflow-wrap: anywhere; }
  .row span { color: var(--dim); border-radius: 3px; }
  .row span:hover { outline: 1px solid currentColor; }
  .row .t { color: var(--trained-text); background: var(--trained); }
  .row .t + .t { box-shadow: -1px 0 0 0 var(--back); }
  .row .c, .legend .c { border: 1px solid var(--line); font: .8em ui-monospace, monospace; padding: 0 .25em; }
  .row .t.c, .legend .t.c { background: var(--end); color: #fff; border-color: var(--end); }
  .row .b, .legend .b { color: var(--bytes); text-decoration: underline dotted; }
  .legend .t { color: var(--trained-text); background: var(--trained); padding: 0 .25em; border-radius: 3px; }
</style>
<h1>{{ title }}</h1>
<p class="legend">{{ prompt }} · <span class="t">{{ trained }}</span> ·
<span class="t c">{{ end }}</span>{{ end_token }} ·
<span class="b">字</span>{{ in_bytes }} ·
{{ pointer }}</p>
{% for heading, views in rows -%}
<section><h2>{{ heading }}</h2><div class="row">
{%- for view in views -%}
<span class="{{ 't ' if view.is_trained }}{{ 'c ' if view.is_control }}{{ 'b' if view.is_spelled_in_bytes }}" title="{{
view.ids | join(' ') }}">{{ view.text }}</span>
{%- endfor -%}
</div></section>
{% endfor %}
</html>
"""


def write(path: Path, title: str, rows: Sequence[tuple[str, Sequence[TokenView]]]) -> None:
    """Write the page of some rows, each with its heading and its tokens.

    Raises:
        WriteError: it cannot be written.
    """
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    end = next((c.text for _, views in rows for c in views if c.is_control and c.is_trained), "")
    words = {
        "prompt": tr("prompt"),
        "trained": tr("trained"),
        "end_token": tr(" end token, trained"),
        "in_bytes": tr(" spelled in bytes: the vocabulary has no token for it"),
        "pointer": tr("a token shows its id under the pointer"),
    }
    with output.whole_file(path) as file:
        file.write(page.render(title=title, end=end, rows=rows, **words))
