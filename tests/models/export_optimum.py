"""Writes ``optimum/*.onnx`` with Hugging Face Optimum (``optimum-onnx``), as its users call it.

    python tests/models/export_optimum.py [NAME ...]

Needs optimum-onnx, torch and transformers 4 (versions in README.md). The tests only read the files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import architectures
import onnx
from optimum.exporters.onnx import export, main_export
from optimum.exporters.tasks import TasksManager
from optimum.onnx import merge_decoders

HERE = Path(__file__).parent / "optimum"
OPSET = 18

# Optimum knows no Mixtral, and its T5 encoder of this size takes 320 KB.
DECODERS = [kind for kind in architectures.DECODERS if kind != "mixtral"]

# Where the graph of an architecture is large, its weights are smaller than elsewhere: 200 KB a file at most.
SMALLER: dict[str, dict[str, Any]] = {"gpt2": {"n_inner": 64}, "gemma3": {"intermediate_size": 24}}
ONE_LAYER = {"num_hidden_layers": 1}  # of the merged ones, which hold the graph twice

# name -> (architecture, task)
MODELS: dict[str, tuple[str, str]] = {
    **{f"{kind}_past": (kind, "text-generation-with-past") for kind in DECODERS},
    **{kind: (kind, "text-generation") for kind in ("llama", "mistral", "gpt2")},
    "bert": ("bert", "feature-extraction"),
}
MERGED = {"llama_merged": "llama", "gpt2_merged": "gpt2"}


def build(kind: str, **changes: Any) -> Any:
    """The model; transformers 4 calls the rotary parameters of transformers 5 ``rope_scaling``."""
    if kind in architectures.ENCODERS:
        return architectures.build(kind)
    changes |= SMALLER.get(kind, {})
    rope = getattr(architectures.DECODERS[kind](), "rope_parameters", None)
    if rope is not None:
        changes["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return architectures.build(kind, **changes)


def write(name: str) -> None:
    """One run of ``optimum-cli export onnx``."""
    kind, task = MODELS[name]
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "hf", Path(scratch) / "out"
        build(kind).save_pretrained(source)
        main_export(str(source), str(out), task=task, opset=OPSET, do_validation=False)
        onnx.save(onnx.load(out / "model.onnx"), HERE / f"{name}.onnx")


def write_merged(name: str) -> None:
    """A decoder without and one with past inputs, joined by Optimum under one ``If``."""
    model = build(MERGED[name], **ONE_LAYER)
    kind = model.config.model_type
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model_type=kind, task="text-generation", library_name="transformers"
    )
    with tempfile.TemporaryDirectory() as scratch:
        paths = []
        for past in (False, True):
            config = constructor(model.config, task="text-generation", use_past=True, use_past_in_inputs=past)
            paths.append(Path(scratch) / f"{past}.onnx")
            export(model, config, paths[-1], opset=OPSET)
        merge_decoders(*paths, save_path=HERE / f"{name}.onnx", strict=False)


def main(names: list[str]) -> None:
    """Writes the named models, or all."""
    for name in names or [*MODELS, *MERGED]:
        (write_merged if name in MERGED else write)(name)
        print(f"{name}: {(HERE / f'{name}.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
