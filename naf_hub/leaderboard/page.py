"""A board as one HTML page with columns that sort at a click; no other file, no network."""

from __future__ import annotations

from html import escape
from importlib import resources

from ..reports import Report
from .ranking import RANK, Board

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c1c28 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child, td.text { text-align: left }
th { cursor: pointer; border-bottom: 2px solid #888; vertical-align: bottom }
th[aria-sort=ascending]::after { content: " \\25B2" } th[aria-sort=descending]::after { content: " \\25BC" }
td.best { font-weight: 700 }
@media (prefers-color-scheme: dark) { body { background: #16161d; color: #e4e4ee } th, td { border-color: #444 } }
"""


def html(board: Board, note: str = "") -> str:
    """The page: the ranked table, the paper's figures beside ours where the plan has them, and what is missing."""
    script = (resources.files(__package__ or "naf_hub.leaderboard") / "sortable.js").read_text("utf-8")
    title = escape(board.table.heading)
    parts = [f"<h1>{title}</h1>", f"<p>{escape(note)}</p>" if note else "", html_table(board.table)]
    if board.paper is not None:
        parts += [f"<h2>{escape(board.paper.heading)}</h2>", html_table(board.paper)]
    if notes := board.notes():
        parts += ["<h2>Missing</h2>", "<ul>", *(f"<li>{escape(line)}</li>" for line in notes), "</ul>"]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n" + "\n".join(filter(None, parts))
        + f"\n<script>{script}</script>\n</body></html>\n"
    )  # fmt: skip


def html_table(report: Report) -> str:
    """A report as an HTML table of the class ``sortable``; the best ranked figure of each column is bold."""
    header, *body = report.cells()
    best = {i: _best(report, i - 1) for i in range(1, 1 + len(report.metrics))}
    lines = [
        '<table class="sortable"><thead><tr>',
        *(f"<th>{escape(cell)}</th>" for cell in header),
        "</tr></thead><tbody>",
    ]
    for place, row in enumerate(body):
        cells = []
        for i, cell in enumerate(row):
            kind = "" if i in best else ' class="text"'
            if i in best and place in best[i]:
                kind = ' class="best"'
            cells.append(f"<td{kind}>{escape(cell)}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _best(report: Report, column: int) -> set[int]:
    metric = report.metrics[column]
    ranked = [(i, row) for i, row in enumerate(report.rows) if row.values.get(RANK.name) is not None]
    found = {i: v for i, row in ranked if (v := row.values.get(metric.name)) is not None}
    if not found:
        return set()
    top = (max if metric.higher_is_better else min)(found.values())
    return {i for i, value in found.items() if value == top}
