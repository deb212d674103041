"""The matrix of architectures and exporters: a cell per file of tests/models, and how such a file is fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = [
    "ARCHITECTURES",
    "CELLS",
    "COARSE_DISTANCE",
    "EXPORTERS",
    "FLOAT32",
    "LOOSER",
    "MODELS",
    "PENDING",
    "STATELESS",
    "Cell",
    "assert_logits",
    "by_onnxruntime",
    "inputs_of",
]

MODELS = Path(__file__).parents[1] / "models"

# Prefix of the file names -> what people call it; a longer prefix comes before a shorter one.
ARCHITECTURES = {
    "llama3": "Llama 3 (scaled rotary)",
    "yarn_llama": "Llama with YaRN",
    "linear_llama": "Llama with linear rotary scaling",
    "ntk_llama": "Llama with NTK rotary scaling",
    "llama": "Llama, SmolLM2",
    "mistral": "Mistral (sliding window)",
    "qwen2": "Qwen2 (QKV bias)",
    "qwen3": "Qwen3 (QK norm)",
    "phi3": "Phi-3 (fused QKV, gate-up)",
    "gemma2": "Gemma 2 (soft caps)",
    "gemma3": "Gemma 3",
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX, Pythia",
    "opt": "OPT",
    "falcon": "Falcon (multi-query)",
    "mixtral": "Mixtral (mixture of experts)",
    "bert": "BERT",
    "minilm": "Sentence encoder (MiniLM)",
    "t5_encoder": "T5 encoder",
    "encoder": "Transformer encoder layer",
    "mlp": "MLP",
}

STATELESS = ("bert", "minilm", "t5_encoder", "encoder", "mlp")  # without a cache

EXPORTERS = {
    "": "torch.onnx dynamo",
    "genai": "ONNX Runtime GenAI",
    "optimum": "Optimum",
    "torchscript": "torch.onnx TorchScript",
    "quantised": "onnxruntime quantisers",
    "optimised": "onnxruntime optimisers",
}

# What onnxruntime computes in another precision than float32 differs from us by this much at most: it rounds
# every step (float16: 11 bits) or the activations ("rounded": accuracy level 4 of MatMulNBits; 16 bits of
# quantised models), we neither.
LOOSER = {"fp16": 3e-2, "bf16": 3e-1, "rounded": 0.3, "qdq_int16": 3e-2}
FLOAT32 = 1e-3

# Activations of 8 bits: so much is onnxruntime's root mean square distance to us, over the logits' deviation.
# To the float models that these files were made of, it is as far or farther.
COARSE = ("dynamic_int8", "dynamic_uint8", "qdq_int8", "qoperator_int8")
COARSE_DISTANCE = 0.2


@dataclass(frozen=True)
class Cell:
    """One file.

    Attributes:
        path: The model.
        architecture: A key of :data:`ARCHITECTURES`.
        exporter: A value of :data:`EXPORTERS`.
        variant: The rest of the file's name: opset, precision, options.
    """

    path: Path
    architecture: str
    exporter: str
    variant: str

    @property
    def name(self) -> str:
        """The file's name below tests/models, without the suffix."""
        return self.path.relative_to(MODELS).with_suffix("").as_posix()

    @property
    def tolerance(self) -> float:
        """Largest difference to onnxruntime's logits, whose deviation is about 1.6."""
        return next((bound for kind, bound in LOOSER.items() if kind in self.variant), FLOAT32)


def assert_logits(cell: Cell, got: NDArray, want: NDArray) -> None:
    """Fails where our values are not those of onnxruntime on the original file, to the cell's tolerance."""
    assert got.shape == want.shape
    if any(kind in cell.variant for kind in COARSE):
        assert np.sqrt(np.mean(np.square(got - want))) < COARSE_DISTANCE * want.std()
    else:
        np.testing.assert_allclose(got, want, atol=cell.tolerance)


def _cell(path: Path) -> Cell:
    folder = path.parent.relative_to(MODELS).as_posix().removeprefix(".").split("/")[0]
    architecture = next(a for a in ARCHITECTURES if path.stem.startswith(a))
    return Cell(path, architecture, EXPORTERS[folder], path.stem.removeprefix(architecture).strip("_"))


CELLS = tuple(_cell(path) for path in sorted(MODELS.rglob("*.onnx")))


@lru_cache(maxsize=1)  # a cell asks for its inputs and outputs one after the other
def session(path: Path) -> onnxruntime.InferenceSession:
    """onnxruntime on the original file, on one thread."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Without it, processors that lack VNNI add products of 8 by 8 bits with saturation (onnxruntime,
    # onnxruntime_session_options_config_keys.h); with it, onnxruntime 1.32 has no kernel for QLinearMatMul.
    precise = "0" if "qoperator" in path.stem else "1"
    options.add_session_config_entry("session.x64quantprecision", precise)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def by_onnxruntime(cell: Cell, feeds: dict[str, NDArray]) -> NDArray:
    """The first output as float32, computed row by row of the batch and joined.

    onnxruntime's RotaryEmbedding refuses tables of one row for two sequences, so it never gets two.
    """
    running = session(cell.path)
    count = len(next(iter(feeds.values())))
    rows = [running.run(None, {name: x[[b]] for name, x in feeds.items()})[0] for b in range(count)]
    return np.concatenate(rows).astype(np.float32)


def inputs_of(cell: Cell, ids: NDArray, mask: NDArray | None = None) -> dict[str, NDArray]:
    """An array for every input of a file, in its order: tokens [batch, n], an empty past; or noise."""
    return {value.name: _feed(value, ids, mask) for value in session(cell.path).get_inputs()}


def _feed(value: onnxruntime.NodeArg, ids: NDArray, mask: NDArray | None) -> NDArray:
    for part, make in _INPUTS.items():
        if part in value.name:
            return make(value, ids, mask).astype(_DTYPES[value.type])
    raise KeyError(f"no idea what to feed to {value.name}")


def _past(value: onnxruntime.NodeArg, ids: NDArray, _mask: NDArray | None) -> NDArray:
    """Empty; onnxruntime wants a cache of a sliding window to have room for the window."""
    _, heads, past, channels = value.shape
    rows = ids.shape[1] if past == "past_sliding_length" else 0
    return np.zeros((len(ids), heads, rows, channels if isinstance(channels, int) else GENAI_HEAD))


def _noise(value: onnxruntime.NodeArg, ids: NDArray, _mask: NDArray | None) -> NDArray:
    symbols = iter(ids.shape)
    shape = [size if isinstance(size, int) else next(symbols) for size in value.shape]
    return np.random.default_rng(0).normal(size=shape)


GENAI_HEAD = 16  # channels of a head, which the GenAI builder does not write into the shapes of its caches

_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
_DTYPES |= {"tensor(float16)": np.float16, "tensor(bool)": np.bool_}

# By a part of the input's name, the first that fits.
_INPUTS: dict[str, Callable[[onnxruntime.NodeArg, NDArray, NDArray | None], NDArray]] = {
    "past": _past,
    "mask": lambda _value, ids, mask: np.ones(ids.shape) if mask is None else mask,
    "position": lambda _value, ids, _mask: np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
    "token_type": lambda _value, ids, _mask: np.zeros(ids.shape),
    "use_cache_branch": lambda _value, ids, _mask: np.zeros(len(ids)),
    "input_ids": lambda _value, ids, _mask: ids,
    "x": _noise,
}

# Files that are not compiled yet, by pattern of the whole name, with the reason; a test wants them refused.
PENDING: dict[str, str] = {}
