"""GGUF files become canonical ONNX (opset 24 standard operations), so that one frontend serves both."""

from sdc.frontends.gguf.layout import LlamaFacts
from sdc.frontends.gguf.reader import GgufModel, open_gguf
from sdc.frontends.gguf.to_onnx import to_onnx
from sdc.frontends.gguf.tokenizer import save_tokenizer, tokenizer

__all__ = ["GgufModel", "LlamaFacts", "open_gguf", "save_tokenizer", "to_onnx", "tokenizer"]
