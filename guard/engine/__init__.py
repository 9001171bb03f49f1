"""The engine: token ids in, log-probabilities of label continuations out. It knows no categories and no prompts."""

import logging

# transformers imports torchao where it is installed, which warns of kernels of its own that it does without
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
