"""A verdict as a card: the estimate with its interval on a line, beside the limit to meet."""

from __future__ import annotations

import math
import re
from html import escape

from _tools.scoreboard import PLANNED, SOURCES, Row, sign
from flatbook.claims import required

WIDTH, HEIGHT, MARGIN = 240, 34, 8


def formulas(text: str) -> str:
    r"""Return a claim's text as HTML: escaped, ``$…$`` for MathJax and backticks as code.

    Examples:
        >>> formulas("a < b at $x<1$")
        'a &lt; b at <span class="math notranslate nohighlight">\\(x&lt;1\\)</span>'
    """
    marked = re.sub(
        r"\$([^$]+)\$",
        r'<span class="math notranslate nohighlight">\\(\1\\)</span>',
        escape(text, quote=False),
    )
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", marked)


def strip(row: Row, *, bare: bool = False) -> str:
    """Return the value and its interval on a line, the limits marked and what they allow shaded.

    The line is logarithmic where the numbers are positive and span two decades. A row without a
    finite value has no line. A bare line is lower: the limits do not say their numbers.
    """
    if row.value is None or not math.isfinite(row.value):
        return ""
    ((kind, limit),) = row.entry["tolerance"].items()
    limits = [float(x) for x in (limit if isinstance(limit, list) else [limit])]
    ends = [x for x in row.interval or () if math.isfinite(x)]
    points = [row.value, *ends, *limits]
    low, high = min(points), max(points)
    log = low > 0 and high > 100 * low

    def scaled(x: float) -> float:
        return math.log10(x) if log else x

    span = (scaled(high) - scaled(low)) or abs(scaled(high)) or 1.0
    left, right = scaled(low) - 0.12 * span, scaled(high) + 0.12 * span

    def at(x: float) -> float:
        share = (scaled(x) - left) / (right - left)
        return round(MARGIN + (WIDTH - 2 * MARGIN) * share, 1)

    allowed = {
        "below": (MARGIN, at(limits[-1])),
        "above": (at(limits[0]), WIDTH - MARGIN),
        "between": (at(limits[0]), at(limits[-1])),
    }[kind]
    parts = [
        f'<rect class="allowed" x="{allowed[0]}" y="6" width="{allowed[1] - allowed[0]:.1f}"'
        ' height="12"/>',
        f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="12" y2="12"/>',
    ]
    for x in limits:
        parts.append(f'<line class="limit" x1="{at(x)}" x2="{at(x)}" y1="3" y2="21"/>')
        if bare:
            continue
        anchor = "start" if at(x) < WIDTH / 4 else "end" if at(x) > 3 * WIDTH / 4 else "middle"
        parts.append(f'<text x="{at(x)}" y="32" text-anchor="{anchor}">{x:g}</text>')
    if ends:
        parts.append(
            f'<line class="interval" x1="{at(min(ends))}" x2="{at(max(ends))}" y1="12" y2="12"/>'
        )
    parts.append(f'<circle class="value" cx="{at(row.value)}" cy="12" r="4.5"/>')
    said = escape(f"{row.number}; {required(row.entry['tolerance'])}")
    height = 24 if bare else HEIGHT
    return (
        f'<svg class="strip {sign(row.verdict)}" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-label="{said}">{"".join(parts)}</svg>'
    )


def card(row: Row, board: str) -> str:
    """Return the card that stands where the check ran.

    Args:
        row: The claim and its verdict.
        board: Address of the scoreboard, seen from the page.
    """
    source, id_, verdict = row.entry["source"], escape(row.id), escape(row.verdict)
    kind = sign(row.verdict)
    limit = f" ({required(row.entry['tolerance'])})" if row.value is not None else ""
    number = f'<p class="number"><strong>{escape(row.number)}</strong>{limit}</p>'
    check = f'<p class="aside">{formulas(row.entry["check"])}</p>'
    why = f'<p class="why">{formulas(row.why)}</p>' if row.why else ""
    where = f"{SOURCES[source['paper']]}, {source['where']}"
    return (
        f'<div class="verdict-card {kind}" id="{id_}" role="group"'
        f' aria-label="Claim {id_}: {verdict}">'
        f'<p class="verdict-head"><span class="verdict {kind}">{verdict}</span>'
        f' <span class="scale">{escape(row.scale)}</span>'
        f' <a href="{board}#{id_}">{id_}</a></p>'
        f"<p>{formulas(row.entry['statement'])}"
        f' <span class="aside">{escape(where)}</span></p>'
        f"{strip(row)}{number if row.value is not None else ''}{check}{why}</div>"
    )


def overview(rows: list[Row], board: str) -> str:
    """Return a chapter's verdicts, a line each; opened, it says the number and why.

    Args:
        rows: The chapter's claims.
        board: Address of the scoreboard, seen from the page.
    """
    lines = "".join(_line(row, board) for row in rows)
    return f'<div class="verdicts" role="group" aria-label="Verdicts of this chapter">{lines}</div>'


def _line(row: Row, board: str) -> str:
    kind, value, id_ = sign(row.verdict), "", escape(row.id)
    said = []
    if row.value is not None:
        value, limit = f"{row.value:.3g}", required(row.entry["tolerance"])
        number = f"<strong>{escape(row.number)}</strong> ({limit})"
        said.append(f"<p>{number}: {formulas(row.entry['check'])}</p>")
    if row.why:
        said.append(f'<p class="why">{formulas(row.why)}</p>')
    check = "" if row.verdict == PLANNED else f'<a href="#{id_}">the check</a> · '
    said.append(f'<p>{check}<a href="{board}#{id_}">{id_} on the scoreboard</a></p>')
    return (
        f'<details class="{kind}"><summary><span class="verdict {kind}">{escape(row.verdict)}'
        f'</span><span class="claimed">{formulas(row.entry["statement"])}</span>'
        f'{strip(row, bare=True)}<span class="number">{escape(value)}</span></summary>'
        f"{''.join(said)}</details>"
    )


def badge(label: str, counts: dict[str, int]) -> str:
    """Return a badge: how many of a source's claims were reproduced, as SVG.

    Args:
        label: Whose claims.
        counts: How many claims earned each verdict.
    """
    passed = sum(n for verdict, n in counts.items() if verdict.startswith("reproduced"))
    text = f"{passed} of {sum(counts.values())} reproduced"
    left, right = 7 * len(label) + 16, 7 * len(text) + 16
    style = 'font-family="Verdana, DejaVu Sans, sans-serif" font-size="11" fill="#fff"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="{escape(label)}: {text}"><title>{escape(label)}: {text}</title>'
        f'<rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="#00694d"/>'
        f'<g {style}><text x="8" y="14">{escape(label)}</text>'
        f'<text x="{left + 8}" y="14">{text}</text></g></svg>\n'
    )
