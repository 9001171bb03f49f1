"""How often an assistant declines: asked or recorded answers, judged by our own engine, with intervals.

    systems ─┐
    prompts ─┴─▶ ask ──▶ answers.jsonl ──▶ judge ──▶ rows.jsonl ──▶ figures ──▶ report
    a file ──▶ recorded ──────────────────────┘

The one rule: a rate is over what was answered and judged. What was not is counted with its reason, and never taken for
a refusal.
"""
