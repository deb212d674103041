"""Writes the tiny random-weight models that the frontend's tests read, with the real exporters.

    python tests/models/export_torch.py [NAME ...]

Needs torch and transformers (versions in README.md); the tests do not: they read the files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import onnx
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
BATCH, SEQ = 2, 5


def llama(tied: bool, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A Llama of two layers whose weights are large enough that logits differ clearly."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape))
    return model.eval().to(dtype)


class Logits(torch.nn.Module):
    """The model without a cache: input_ids -> logits."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


class MaskedLogits(Logits):
    """With attention mask and position ids, as Hugging Face models are called."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor
    ) -> torch.Tensor:
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).logits


class CachedLogits(Logits):
    """With past keys and values: logits and the grown cache."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *past: torch.Tensor) -> Any:
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True
        )
        grown = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (out.logits, *grown)


def export(model: torch.nn.Module, args: tuple[Any, ...], name: str, opset: int, **options: Any) -> None:
    """One dynamo export, weights inside the file."""
    program = torch.onnx.export(model, args, dynamo=True, opset_version=opset, verbose=False, **options)
    path = HERE / f"{name}.onnx"
    program.save(str(path), external_data=False)
    strip(path)


def strip(path: Path) -> None:
    """Removes the exporter's stack traces, which are most of a tiny file; the graph stays as it is."""
    proto = onnx.load(path)
    for node in (*proto.graph.node, *(n for f in proto.functions for n in f.node)):
        del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    onnx.save(proto, path)


def plain(opset: int, tied: bool = False, dtype: torch.dtype = torch.float32) -> Callable[[str], None]:
    def write(name: str) -> None:
        ids = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)
        shapes = {"input_ids": {0: "batch", 1: "seq"}}
        export(
            Logits(llama(tied, dtype)),
            (ids,),
            name,
            opset,
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes=shapes,
        )

    return write


def masked(opset: int) -> Callable[[str], None]:
    def write(name: str) -> None:
        ids = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)
        args = (ids, torch.ones_like(ids), torch.arange(SEQ).expand(BATCH, SEQ).contiguous())
        names = ["input_ids", "attention_mask", "position_ids"]
        shapes = {n: {0: "batch", 1: "seq"} for n in names}
        export(
            MaskedLogits(llama(True)),
            args,
            name,
            opset,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=shapes,
        )

    return write


def cached(opset: int) -> Callable[[str], None]:
    def write(name: str) -> None:
        past_length = 3
        ids = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)
        mask = torch.ones(BATCH, past_length + SEQ, dtype=torch.int64)
        past = tuple(torch.randn(BATCH, 2, past_length, 8) for _ in range(4))
        kinds = [(i, kind) for i in range(2) for kind in ("key", "value")]
        batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq")
        old = torch.export.Dim("past")
        shapes = (
            {0: batch, 1: seq},
            {0: batch, 1: torch.export.Dim.AUTO},
            tuple({0: batch, 2: old} for _ in kinds),
        )
        export(
            CachedLogits(llama(True)),
            (ids, mask, *past),
            name,
            opset,
            input_names=["input_ids", "attention_mask", *(f"past_key_values.{i}.{k}" for i, k in kinds)],
            output_names=["logits", *(f"present.{i}.{k}" for i, k in kinds)],
            dynamic_shapes=shapes,
        )

    return write


def mlp(name: str) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(12, 24), torch.nn.GELU(), torch.nn.LayerNorm(24), torch.nn.Linear(24, 5)]
    model = torch.nn.Sequential(*layers).eval()
    export(
        model,
        (torch.randn(3, 12),),
        name,
        20,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: "rows"},),
    )


def encoder(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True).eval()
    export(
        model,
        (torch.randn(2, 6, 16),),
        name,
        18,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: "batch", 1: "seq"},),
    )


def architecture(kind: str, opset: int) -> Callable[[str], None]:
    """A decoder with input_ids, or an encoder with input_ids and attention_mask."""

    def write(name: str) -> None:
        ids = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)
        model = architectures.build(kind)
        decoder = kind in architectures.DECODERS
        names = ["input_ids"] if decoder else ["input_ids", "attention_mask"]
        export(
            Logits(model) if decoder else Hidden(model),
            (ids, torch.ones_like(ids))[: len(names)],
            name,
            opset,
            input_names=names,
            output_names=["logits" if decoder else "last_hidden_state"],
            dynamic_shapes={n: {0: "batch", 1: "seq"} for n in names},
        )

    return write


class Hidden(Logits):
    """An encoder's last hidden state."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class Pooled(Hidden):
    """A sentence encoder as sentence-transformers composes it: BERT, the mean of the tokens, normalised."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = super().forward(input_ids, attention_mask)
        seen = attention_mask[:, :, None].expand(hidden.size()).float()
        mean = (hidden * seen).sum(1) / torch.clamp(seen.sum(1), min=1e-9)
        return torch.nn.functional.normalize(mean, p=2, dim=1)


def sentence_encoder(opset: int) -> Callable[[str], None]:
    def write(name: str) -> None:
        ids = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)
        names = ["input_ids", "attention_mask"]
        export(
            Pooled(architectures.build("bert")),
            (ids, torch.ones_like(ids)),
            name,
            opset,
            input_names=names,
            output_names=["sentence_embedding"],
            dynamic_shapes={n: {0: "batch", 1: "seq"} for n in names},
        )

    return write


# torch 2.13 does not write multi-query attention for opset 23 ("requires q_num_heads = kv_num_heads").
FAILING = {("falcon", 23)}

MODELS: dict[str, Callable[[str], None]] = {
    **{f"llama_dynamo_op{opset}": plain(opset, tied=opset % 2 == 0) for opset in (18, 20, 23, 24)},
    "llama_dynamo_op18_fp16": plain(18, dtype=torch.float16),
    "llama_dynamo_op23_fp16": plain(23, dtype=torch.float16),
    **{f"llama_dynamo_masked_op{opset}": masked(opset) for opset in (18, 20, 23, 24)},
    **{f"llama_dynamo_past_op{opset}": cached(opset) for opset in (18, 20, 23, 24)},
    **{
        f"{kind}_dynamo_op{opset}": architecture(kind, opset)
        for kind in (*architectures.DECODERS, *architectures.ENCODERS)
        for opset in (18, 23)
        if kind not in ("llama", "llama_tied") and (kind, opset) not in FAILING
    },
    **{f"minilm_dynamo_op{opset}": sentence_encoder(opset) for opset in (18, 23)},
    "mlp_dynamo_op20": mlp,
    "encoder_dynamo_op18": encoder,
}


def main(names: list[str]) -> None:
    """Writes the named models, or all."""
    for name in names or MODELS:
        MODELS[name](name)
        print(f"{name}: {(HERE / f'{name}.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
