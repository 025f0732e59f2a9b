"""The report's page: style, the little script that sorts tables and follows the colour scheme, the frame."""

from __future__ import annotations

import html

STYLE = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --ink: #1a1f29; --soft: #626b7a;
  --line: #e3e6eb; --accent: #2563eb; --hit: #eff5ff; --bad: #c62a2f; --good: #18794e; }
@media (prefers-color-scheme: dark) { :root { --bg: #0f1218; --card: #181c24; --ink: #e6e9ef;
  --soft: #99a2b2; --line: #2a303b; --accent: #6ea8fe; --hit: #1b2740; --bad: #ff8b8f; --good: #5bd19b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 27px; margin: 0 0 2px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 12px; }
p { margin: 0 0 12px; } .soft { color: var(--soft); } .note { color: var(--soft); font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px 22px; margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; }
.tile b { display: block; font-size: 21px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; margin: 0 -6px; padding: 0 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
td.text, th.text { text-align: left; } td.half { width: 60%; }
td.text.long { white-space: normal; min-width: 210px; }
.sortable th { cursor: pointer; user-select: none; } .sortable th:hover { color: var(--ink); }
th[aria-sort=ascending]::after { content: " \\25B2"; font-size: 9px; }
th[aria-sort=descending]::after { content: " \\25BC"; font-size: 9px; }
tr.front td { background: var(--hit); } tr.selected td { background: var(--hit); font-weight: 600; }
.status { font-size: 11.5px; letter-spacing: .03em; color: var(--soft); }
.status.complete { color: var(--good); } .status.infeasible, .status.failed { color: var(--bad); }
pre { overflow-x: auto; background: var(--bg); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; margin: 0; font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.players { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 12px;
  margin-bottom: 16px; }
.players label { display: block; color: var(--soft); font-size: 13px; } audio { width: 100%; height: 40px; }
h3 { font-size: 14px; margin: 0 0 4px; overflow-wrap: anywhere; }
.bar { height: 8px; border-radius: 4px; background: var(--accent); min-width: 2px; }
summary { cursor: pointer; font-weight: 600; font-size: 18px; } details[open] summary { margin-bottom: 12px; }
@media (max-width: 640px) { main { padding: 18px 10px 40px; } section { padding: 16px 14px; } }
"""

SCRIPT = """
document.querySelectorAll('table.sortable').forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent;
  heads.forEach((head, i) => head.addEventListener('click', () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a, i), key(b, i)];
      // What is absent stays at the end, whichever way the rest is sorted.
      if (x === '' || y === '') return (x === '') - (y === '');
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  }));
});
const dark = matchMedia('(prefers-color-scheme: dark)');
function recolour() {
  const ink = dark.matches ? '#c5ccd8' : '#4b5563';
  document.querySelectorAll('.js-plotly-plot').forEach(plot => {
    const change = {'font.color': ink};
    (plot.layout.annotations || []).forEach((_, i) => { change[`annotations[${i}].font.color`] = ink; });
    Plotly.relayout(plot, change);
  });
}
dark.addEventListener('change', recolour);
recolour();
"""


def page(title: str, sections: list[str]) -> str:
    """A whole HTML document of ``sections``, which are HTML already."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def section(title: str, body: str) -> str:
    """A card; nothing at all where there is nothing to show."""
    return f"<section><h2>{html.escape(title)}</h2>\n{body}\n</section>\n" if body else ""


def table(heads: list[str], rows: list[str], *, kind: str = "") -> str:
    """A table of ready rows that scrolls sideways on a narrow screen; heads of text stand left."""
    left = 3 if "status" in heads else 2
    cells = [f'<th class="text">{html.escape(text)}</th>' for text in heads[:left]]
    cells += [f"<th>{html.escape(text)}</th>" for text in heads[left:]]
    head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    return f'<div class="wide"><table class="{kind}">{head}<tbody>{"".join(rows)}</tbody></table></div>'
