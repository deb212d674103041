"""Node tests of the ONNX project for the operations that the lifting knows, and those that it does not pass.

:data:`EXCLUDED` holds the latter by pattern (full match) with the reason. All but the first are refused with
an error that names the node; none of those gives a wrong answer silently.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from functools import cache
from typing import Any

import pytest

from sdc.frontends.onnx.lift import CONVERTERS

__all__ = ["EXCLUDED", "cases", "reason"]

_TYPES = "float8, float4 and 2- or 4-bit integers: not types of a language model's activations"
_STATISTICS = "the mean and deviation as outputs, which only training reads"
_AXES = "over more than the last axis: no channel of the next weights stands for an element of the gain"
_SCORES = "asks for the attention scores as an output, which are never whole in memory"
_PADDED = "keys padded per sequence: our cache has one length for the batch"
_WINDOW = "window attributes of a later opset than 24"

EXCLUDED: dict[str, str] = {
    r"test_attention_(causal|23)_.*nan_robustness": (
        "a query that sees no key at all gets the mean of the values, not zeros; every token sees itself"
    ),
    r"test_attention_.*qk_matmul.*": _SCORES,
    r"test_attention_(?!local).*(nonpad|padded_kv).*": _PADDED,
    r"test_attention_local_window_ext_cache.*": _PADDED,
    r"test_attention_(local|bidirectional|3d_local)_window(?!_ext_cache).*": _WINDOW,
    r"test_cast(like)?_.*(FLOAT8|FLOAT4|INT4|INT2).*": _TYPES,
    r"test_equal_string.*": "strings",
    r"test_identity_(sequence|opt)": "sequences and optional values",
    r"test_layer_normalization_[234]d_axis_?\w*": f"{_AXES}; or {_STATISTICS}",
    r"test_layer_normalization_default_axis": _STATISTICS,
    r"test_rms_normalization_2d_axis(0|_negative_2)": _AXES,
    r"test_rms_normalization_3d_axis(0|1|_negative_[23])_epsilon": _AXES,
    r"test_rms_normalization_4d_axis(0|1|2|_negative_[234])": _AXES,
    r"test_reduce_(max|min)_empty_set(_bool)?": "the greatest of no numbers",
    r"test_cumsum_1d_reverse.*": "sums that run backwards, which no exporter of language models writes",
    r"test_top_k_uint64": "unsigned integers of 64 bits, which TVM's topk does not take",
    r"test_reshape_allowzero_reordered": "TVM cannot reshape an empty tensor to another empty shape",
}

# Loading a module of tests computes what they expect. These take 10 of 13 seconds, in every worker
# of a test run, for operations that the lifting has no rule for (asserted below).
_POOLS = frozenset({"averagepool", "lppool", "maxpool"})


@cache
def cases() -> dict[str, Any]:
    """The tests by name: models of operations that have a rule, with inputs and outputs."""
    assert not _POOLS & {op.lower() for op in CONVERTERS}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        # Most of the rest goes into the source of each test, which ONNX's documentation shows.
        patch.setattr("onnx.backend.test.case.base.process_snippet", lambda _op, name, _export: (name, ""))
        node = importlib.import_module("onnx.backend.test.case.node")
        for module in pkgutil.iter_modules(node.__path__):
            if module.name not in _POOLS:
                importlib.import_module(f"{node.__name__}.{module.name}")
    found = node._NodeTestCases
    return {c.name: c for c in found if all(n.op_type in CONVERTERS for n in c.model.graph.node)}


def reason(name: str) -> str:
    """Why a test is excluded; "" where it is not."""
    return next((why for pattern, why in EXCLUDED.items() if re.fullmatch(pattern, name)), "")
