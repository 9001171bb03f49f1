"""Measuring: labelled sets → predictions (Parquet) → scores (JSON) → report. `python -m eval --help`.

    sets.py, foreign.py ──▶ predict.py ──▶ predictions/*.parquet ──▶ score.py ──▶ scores.json ──▶ report.py
    labelled items          asks the       one row per item          pure, no     figures with    HTML, Markdown
                            moderator                                model        intervals

The package is run, never imported by another: its name hides a builtin.
"""
