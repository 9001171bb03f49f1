"""Writes a transformers checkpoint of Mistral's shape as GGUF, in bf16 and q8_0: `... CHECKPOINT FOLDER`.

llama.cpp's own converter is not on PyPI. As it does, the rows of the query and key weights are put in the order of
llama.cpp's rotary embedding, which turns neighbours where transformers turns halves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import transformers
from safetensors.torch import load_file

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    index, _, inner = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{index}.{NAMES[inner]}.weight"


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(checkpoint: Path, path: Path, kind: gguf.GGMLQuantizationType) -> None:
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        weight = tensor.float().numpy()
        if (rotated := name.split(".")[-2]) in heads:
            weight = neighbours(weight, heads[rotated])
        own = kind if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    write(source, target / "bf16.gguf", gguf.GGMLQuantizationType.BF16)
    write(source, target / "int8.gguf", gguf.GGMLQuantizationType.Q8_0)
