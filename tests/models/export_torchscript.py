"""Writes ``torchscript/*.onnx`` with the old exporter of torch (``dynamo=False``), at opset 13 to 17.

    python tests/models/export_torchscript.py [NAME ...]

Needs torch and transformers 4 (versions in README.md). The tests only read the files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import architectures
import torch

HERE = Path(__file__).parent / "torchscript"
BATCH, SEQ = 2, 5

# Architecture -> opsets; what is missing fails in the exporter.
OPSETS: dict[str, tuple[int, ...]] = {
    "llama": (14, 15, 16, 17),
    "qwen2": (14,),
    "gpt2": (14, 16, 17),
    "gpt_neox": (14,),
    "opt": (14,),
    "bert": (14, 15, 17),
    "mlp": (13,),
}
MODELS = {f"{kind}_op{opset}": (kind, opset) for kind, opsets in OPSETS.items() for opset in opsets}


class Traced(torch.nn.Module):
    """A model as people traced it: tokens and mask in, logits or hidden states out, no cache."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        return out.last_hidden_state if "last_hidden_state" in out else out.logits


class Causal(Traced):
    """A decoder with its mask spelt out: the old exporter cannot write what transformers makes of a mask."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        seq = input_ids.shape[1]
        seen = torch.tril(torch.ones(seq, seq, dtype=torch.int64)) * attention_mask[:, None, None, :]
        hidden = (1 - seen).to(torch.float32) * torch.finfo(torch.float32).min
        return super().forward(input_ids, hidden)


def build(kind: str) -> torch.nn.Module:
    """The model with attention as matrix products, which the old exporter writes at every opset."""
    if kind == "mlp":
        torch.manual_seed(0)
        layers = [torch.nn.Linear(12, 24), torch.nn.GELU(), torch.nn.LayerNorm(24), torch.nn.Linear(24, 5)]
        return torch.nn.Sequential(*layers).eval()
    model = architectures.build(kind, **({"n_inner": 48} if kind == "gpt2" else {}))
    model.config._attn_implementation = "eager"
    model.config.use_cache = False
    return (Traced if kind in ("bert", "opt") else Causal)(model).eval()


def export(name: str) -> None:
    """One trace."""
    kind, opset = MODELS[name]
    ids = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)
    args = (torch.randn(BATCH, 12),) if kind == "mlp" else (ids, torch.ones_like(ids))
    names = ["x"] if kind == "mlp" else ["input_ids", "attention_mask"]
    output = {"mlp": "y", "bert": "last_hidden_state"}.get(kind, "logits")
    axes = {n: {0: "batch", **({} if kind == "mlp" else {1: "seq"})} for n in (*names, output)}
    torch.onnx.export(
        build(kind),
        args,
        HERE / f"{name}.onnx",
        dynamo=False,
        opset_version=opset,
        input_names=names,
        output_names=[output],
        dynamic_axes=axes,
    )


def main(names: list[str]) -> None:
    """Writes the named models, or all."""
    for name in names or MODELS:
        export(name)
        print(f"{name}: {(HERE / f'{name}.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
