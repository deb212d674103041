"""Rewrites every flavour of ONNX model into one canonical form: standard operations of opset 23.

One idea, one file; :func:`normalise` holds the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter.onnx_fusions import fuse

from sdc.frontends.onnx.normalise.attention import fuse_attention
from sdc.frontends.onnx.normalise.block_quantised import unpack_block_quantised
from sdc.frontends.onnx.normalise.contrib_rotary import standardise_rotary
from sdc.frontends.onnx.normalise.experts import spread_experts
from sdc.frontends.onnx.normalise.float_casts import drop_float_casts
from sdc.frontends.onnx.normalise.fused_operations import split_fused_operations
from sdc.frontends.onnx.normalise.group_query_attention import split_group_query_attention
from sdc.frontends.onnx.normalise.hidden_scores import add_masks
from sdc.frontends.onnx.normalise.known_shapes import infer_known_shapes
from sdc.frontends.onnx.normalise.merged_decoder import take_cached_branch
from sdc.frontends.onnx.normalise.multi_head_attention import split_multi_head_attention
from sdc.frontends.onnx.normalise.norms import fuse_norms
from sdc.frontends.onnx.normalise.quantised_activations import drop_quantised_activations
from sdc.frontends.onnx.normalise.repeat_heads import drop_repeated_heads
from sdc.frontends.onnx.normalise.rotary import fuse_rotary
from sdc.frontends.onnx.normalise.skip_norms import split_skip_norms
from sdc.frontends.onnx.unfit import refusing

__all__ = ["normalise"]

OPSET = 23  # the first with RMSNormalization, RotaryEmbedding and Attention


def _inline(model: ir.Model) -> int:
    """Functions are written out; from here on the model is in opset 23."""
    before = len(model.functions)
    common.InlinePass()(model)
    model.opset_imports[""] = OPSET
    return before


Rule = Callable[[ir.Model], int | Mapping[str, int]]
RULES: tuple[tuple[str, Rule], ...] = (
    ("merged decoder", take_cached_branch),
    ("numbers from shapes", infer_known_shapes),
    ("float casts", drop_float_casts),
    ("functions", _inline),
    ("onnxruntime's norms", split_skip_norms),
    ("quantised activations", drop_quantised_activations),
    ("onnxruntime's fused operations", split_fused_operations),
    ("weights in blocks", unpack_block_quantised),
    ("GroupQueryAttention", split_group_query_attention),
    ("MultiHeadAttention", split_multi_head_attention),
    ("com.microsoft RotaryEmbedding", standardise_rotary),
    ("onnxscript's fusions", fuse),
    ("decomposed norms", fuse_norms),
    ("scaled RotaryEmbedding", fuse_rotary),
    ("hidden scores", add_masks),
    ("Attention", fuse_attention),
    ("repeated heads", drop_repeated_heads),
    ("experts", spread_experts),
)


def normalise(model: ir.Model) -> Mapping[str, int]:
    """Rewrites the model in place.

    Returns:
        How many matches each rule had.
    """
    counts: dict[str, int] = {}
    for name, rule in RULES:
        found = _applied(name, rule, model)
        counts |= {name: found} if isinstance(found, int) else found
    common.RemoveUnusedNodesPass()(model)
    return counts


def _applied(name: str, rule: Rule, model: ir.Model) -> int | Mapping[str, int]:
    """What a rule found.

    Raises:
        InvalidModelError: The graph breaks what the rule takes for granted of a valid model.
    """
    with refusing(
        f"the graph's shapes, types or attributes do not fit together where it is searched for {name}",
        "; check it with onnx.checker, or export it again",
    ):
        return rule(model)
