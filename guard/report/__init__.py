"""`guard report`: what a scan found, as one page and a summary, and a sample for people to review."""
