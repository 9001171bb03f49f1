"""Batch scanning: `readers` gives rows, `scan` has them judged, `writers` keeps the verdicts."""
