"""SmolLM2-135M-Instruct: logits and tokens against transformers, a second reader of the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import pre_tokenizers

from sdc.data import demo_text
from sdc.frontends.gguf import to_onnx, tokenizer
from sdc.hub import smollm2

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # transformers wants it to read GGUF files


@pytest.fixture(scope="module")
def gguf() -> Path:
    return smollm2()


def reference(gguf: Path):
    """The model that transformers makes of the GGUF file."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    ).eval()


def test_logits(tmp_path, gguf) -> None:
    path = to_onnx(gguf, tmp_path / "model.onnx")
    ids = np.array(tokenizer(gguf).encode(demo_text()[1]).ids[:512], np.int64).reshape(2, 256)
    with torch.no_grad():
        want = reference(gguf)(torch.tensor(ids)).logits.numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input_ids": ids})
    np.testing.assert_allclose(got, want, atol=1e-3, rtol=0)
    assert want.std() > 1


def test_tokens(gguf) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).backend_tokenizer
    # transformers leaves out that this family cuts digits off first (llama.cpp, llama-vocab.cpp, "smollm").
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ours = tokenizer(gguf)
    odd = "<|im_start|>user\nHi 12345 ½ ٣٤ café 日本語 🙂\r\n\t  x'll  \n\n don't\n\n7<|im_end|>  "
    for text in (*demo_text(), odd):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids, skip_special_tokens=False) == text
