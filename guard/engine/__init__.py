"""The engine: token ids in, log-probabilities of label continuations out. It knows no categories and no prompts."""
