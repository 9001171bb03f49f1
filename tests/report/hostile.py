"""Rows whose every word attacks the page, the summary or the terminal."""

from __future__ import annotations

from typing import Any

from tests.report.conftest import numbered, row

ATTACKS = (
    "<script>document.title='owned'</script>", "<img src=x onerror=\"document.title='owned'\">",
    "</style><script>document.title='owned'</script>", "'\"><svg onload=document.title='owned'>",
    "{{ 7 * 7 }}{% raw %}", "javascript:alert(1)", "[x](javascript:alert(1))", "![x](http://evil.example/x.png)",
    "`a` | b | ``c`` \\| <b>bold</b>", "# heading\n\n- list\n", "\x1b[31mred\x07\x00\x9b2J", "\u202egnp\u2066\u200f",
    "</pre></details></main><h1>mine</h1>", "$\\frac{1}{2}$ $x", "&lt;b&gt; &amp;", "http://evil.example www.x.org",
    "<!--", "]]>", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "a" * 5000, "\r\n\t|", " ",
)  # fmt: skip


def hostile_rows() -> list[dict[str, Any]]:
    rows = []
    for i, attack in enumerate(ATTACKS * 4):
        rows.append(row(
            text=f"acme {attack} and some more words, so that it is long enough", decision="block" if i % 2 else "flag",
            categories=[attack[:200]], score=0.9, board=attack, author=attack, policy=attack, model=attack,
            time=f"2024-01-{i % 28 + 1:02}",
        ))  # fmt: skip
        rows.append(row(decision=attack, error=attack, time=attack))
    return [{**one, "id": f"{one['id']} {attack}"} for one, attack in zip(numbered(rows), ATTACKS * 8, strict=True)]
