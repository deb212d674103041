"""Programs that benchmarks compare: ours, onnxruntime, llama.cpp and ONNX Runtime GenAI, behind one face.

llama-cpp-python and onnxruntime-genai are no dependencies of sdc; install them to have them beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdc.runtime.sampling import Sampler
from sdc.targets.weights import map_weights
from sdc.threads import cpus

__all__ = [
    "Contestant",
    "GenAi",
    "LlamaCpp",
    "OnnxRuntime",
    "Ours",
    "add_arguments",
    "command",
    "enter",
    "threads",
]


class Contestant(Protocol):
    """A language model that decodes greedily on as many threads as this process may use."""

    name: str

    def prefill(self, prompt: NDArray) -> float:
        """Takes token ids [n] into an empty cache; seconds until the first token is known."""
        ...

    def decode(self, steps: int) -> float:
        """Generates tokens after :meth:`prefill`; seconds."""
        ...


def threads() -> int:
    """Threads that every contestant runs on."""
    return cpus()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name contestants, and what all comparisons share."""
    parser.add_argument("programs", type=Path, nargs="+", help="artefact directories")
    parser.add_argument("--onnx", type=Path, help="float32 model with past keys and values")
    parser.add_argument("--llama", type=Path, nargs="*", default=[], help="GGUF files for llama.cpp")
    parser.add_argument("--genai", type=Path, nargs="*", default=[], help="folders of the model builder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="page that receives the tables")


def enter(options: argparse.Namespace, longest: int) -> tuple[list[Ours], list[Contestant]]:
    """The programs and their peers, with room for ``longest`` tokens."""
    peers: list[Contestant] = [OnnxRuntime(options.onnx)] if options.onnx else []
    peers += [LlamaCpp(path, longest) for path in options.llama]
    peers += [GenAi(path, longest) for path in options.genai]
    return [Ours(path) for path in options.programs], peers


def command() -> str:
    """The command line, with file names in place of paths."""
    shown = [a.rsplit("/", 1)[-1] if i and not a.startswith("-") else a for i, a in enumerate(sys.argv)]
    return f"`python {shlex.join(shown)}`"


class Ours:
    """A compiled program."""

    def __init__(self, path: Path) -> None:
        import sdc

        self.name = f"sdc {path.stem}"
        self.path = path
        self.program = sdc.load(path)
        self.runner = self.program.decoder
        self.token = 0

    def prefill(self, prompt: NDArray) -> float:
        """See :class:`Contestant`."""
        self.runner.reset()
        start = time.perf_counter()
        self.token = int(self.runner.prefill(prompt).argmax())
        return time.perf_counter() - start

    def decode(self, steps: int) -> float:
        """See :class:`Contestant`."""
        start = time.perf_counter()
        *_, self.token = self.runner.following(self.token, Sampler(), most=steps)
        return time.perf_counter() - start

    def bytes_per_token(self, context: int) -> int:
        """Weight and cache bytes that one decode step reads at a context."""
        built = self.program.manifest["program"]
        weights = sum(
            w.nbytes for w in map_weights(self.path / built["weights"]).values() if not _is_table(w, built)
        )
        states = built["signature"]["states"]
        caches = sum(int(np.prod(s["shape"])) * np.dtype(s["dtype"]).itemsize for s in states)
        return int(weights + caches * context / built["signature"]["max_seq"])


def _is_table(weight: NDArray, built: Mapping[str, Any]) -> bool:
    """Whether only one row is read per token: embeddings by token, rotary angles by position."""
    rows = (built["signature"]["vocab"], built["signature"]["max_seq"])
    return weight.ndim == 2 and weight.shape[0] in rows


class OnnxRuntime:
    """onnxruntime on a float32 model with past keys and values."""

    def __init__(self, path: Path, name: str = "onnxruntime float32") -> None:
        import onnxruntime

        self.name = name
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads()
        settings.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        presents = [o.name for o in self.session.get_outputs()][1:]
        self.pasts = [n.replace("present", "past_key_values") for n in presents]
        shape = next(i.shape for i in self.session.get_inputs() if "past" in i.name)
        self.empty = np.zeros((1, shape[1], 0, shape[3]), np.float32)

    def prefill(self, prompt: NDArray) -> float:
        """See :class:`Contestant`."""
        self.cache = dict.fromkeys(self.pasts, self.empty)
        start = time.perf_counter()
        self._step(np.asarray(prompt)[None])
        return time.perf_counter() - start

    def decode(self, steps: int) -> float:
        """See :class:`Contestant`."""
        start = time.perf_counter()
        for _ in range(steps):
            self._step(np.array([[self.token]]))
        return time.perf_counter() - start

    def _step(self, ids: NDArray) -> None:
        logits, *present = self.session.run(None, {"input_ids": ids, **self.cache})
        self.cache = dict(zip(self.pasts, present, strict=True))
        self.token = int(logits[0, -1].argmax())


class LlamaCpp:
    """llama.cpp through the low-level functions of llama-cpp-python."""

    def __init__(self, path: Path, context: int) -> None:
        import llama_cpp

        self.name, self.api = f"llama.cpp {path.suffixes[-2].lstrip('.')}", llama_cpp
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = context
        settings.n_batch = settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = threads()
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def prefill(self, prompt: NDArray) -> float:
        """See :class:`Contestant`."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        start = time.perf_counter()
        for at in range(0, len(prompt), 512):
            self._step(prompt[at : at + 512])
        return time.perf_counter() - start

    def decode(self, steps: int) -> float:
        """See :class:`Contestant`."""
        start = time.perf_counter()
        for _ in range(steps):
            self._step(np.array([self.token]))
        return time.perf_counter() - start

    def _step(self, ids: NDArray) -> None:
        tokens = (ctypes.c_int32 * len(ids))(*(int(i) for i in ids))
        code = self.api.llama_decode(self.context, self.api.llama_batch_get_one(tokens, len(ids)))
        if code:
            raise RuntimeError(f"llama_decode gave {code}")
        logits = self.api.llama_get_logits_ith(self.context, -1)
        self.token = int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())


class GenAi:
    """ONNX Runtime GenAI on a folder of its model builder."""

    def __init__(self, folder: Path, context: int) -> None:
        import onnxruntime_genai

        self.name, self.api, self.length = f"ORT GenAI {folder.name}", onnxruntime_genai, context
        config = onnxruntime_genai.Config(str(folder))
        options = {"intra_op_num_threads": threads()}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = onnxruntime_genai.Model(config)
        self.generator: Any = None

    def prefill(self, prompt: NDArray) -> float:
        """See :class:`Contestant`."""
        settings = self.api.GeneratorParams(self.model)
        settings.set_search_options(max_length=self.length, min_length=self.length, do_sample=False)
        self.generator = self.api.Generator(self.model, settings)
        start = time.perf_counter()
        self.generator.append_tokens(np.asarray(prompt, np.int32))
        self.generator.generate_next_token()  # picks from the prompt's logits
        return time.perf_counter() - start

    def decode(self, steps: int) -> float:
        """See :class:`Contestant`."""
        start = time.perf_counter()
        for _ in range(steps):
            self.generator.generate_next_token()
        return time.perf_counter() - start
