"""Attacks on the judge: what they do, the samples that they are tried on, and what they cost.

attack.py ◀── characters, spelling, encodings, wrapping, padding, talking ◀── registry.py (by name)
sample.py     items, untouched and attacked ──▶ ../run.py ──▶ predictions ──▶ figures.py
review.py     reviewed.jsonl: twenty outputs of each, read by a person or by somebody in their place
"""
