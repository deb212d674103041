"""Writes a random Llama of a given size as GGUF (Q8_0), for measurements of models that no package ships.

    python benchmarks/random_llama.py OUT.gguf [--layers 22] [--hidden 2048] [--ffn 5632] [--heads 32]
        [--kv-heads 4] [--vocab 32000] [--context 2048] [--seed 0]

The defaults are the shape of TinyLlama-1.1B (arXiv 2401.02385, table 2). One tensor is in memory at a time.
The file has no
tokenizer: prompts are token ids.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from sdc.frontends.gguf.layout import LlamaFacts, tensors

Q8 = gguf.GGMLQuantizationType.Q8_0
BLOCK = 32  # elements of a Q8_0 block: a float16 scale and a byte each


def main() -> None:
    """Parses the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for name, default in (("layers", 22), ("hidden", 2048), ("ffn", 5632), ("heads", 32), ("kv-heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("vocab", 32000), ("context", 2048), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    o = parser.parse_args()
    dim = o.hidden // o.heads
    shape = (o.layers, o.hidden, o.heads, o.kv_heads, dim, o.ffn, o.vocab, o.context)
    facts = LlamaFacts("random", *shape, rms_epsilon=1e-5, rope_base=1e4, rope_dim=dim)
    print(f"{write(o.out, facts, o.seed) / 1e6:.0f} million parameters")


def write(path: Path, facts: LlamaFacts, seed: int) -> int:
    """Writes the file; returns how many parameters it has."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(facts.name)
    writer.add_block_count(facts.layers)
    writer.add_context_length(facts.context)
    writer.add_embedding_length(facts.hidden)
    writer.add_feed_forward_length(facts.ffn)
    writer.add_head_count(facts.heads)
    writer.add_head_count_kv(facts.kv_heads)
    writer.add_layer_norm_rms_eps(facts.rms_epsilon)
    writer.add_rope_freq_base(facts.rope_base)
    writer.add_rope_dimension_count(facts.rope_dim)
    shapes = {name: shape for name, shape, needed in tensors(facts) if needed}
    shapes["output.weight"] = (facts.vocab, facts.hidden)
    for name, shape in shapes.items():
        if len(shape) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            stored = (*shape[:-1], shape[-1] // BLOCK * (BLOCK + 2))
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), Q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(seed)
    for shape in shapes.values():
        writer.write_tensor_data(np.ones(shape, np.float32) if len(shape) == 1 else _matrix(random, shape))
    writer.close()
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _matrix(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """Blocks of bytes about 0 with the scale that gives rows the length 1, as initialisations do."""
    rows, width = shape
    blocks = np.empty((rows, width // BLOCK, BLOCK + 2), np.uint8)
    counts = random.integers(-127, 128, (rows, width // BLOCK, BLOCK), np.int8)
    deviation = 127 / 3**0.5
    blocks[..., :2] = np.frombuffer(np.float16(1 / (deviation * width**0.5)).tobytes(), np.uint8)
    blocks[..., 2:] = counts.view(np.uint8)
    return blocks.reshape(rows, -1)


if __name__ == "__main__":
    main()
