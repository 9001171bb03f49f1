"""The engine: token ids in, log-probabilities of label continuations out. It knows no categories and no prompts."""

import logging
import os

# oneDNN and torch's wrapper of it keep what they made for each shape of a product, a thousand shapes by default.
# Batches have as many shapes as lengths, so a service would grow by some hundred megabytes. With 256 it stops growing
# early; with 64 a running text, whose calls are small and of ever new lengths, took a sixth longer. Both are read when
# torch is loaded, which is after this.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "256")

# transformers imports torchao where it is installed, which warns of kernels of its own that it does without
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
