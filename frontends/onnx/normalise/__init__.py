"""Rewrites every flavour of ONNX model into one canonical form: standard operations of opset 23.

One idea, one file; :func:`normalise` holds the order.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter.onnx_fusions import fuse

from sdc.frontends.onnx.normalise.attention import fuse_attention
from sdc.frontends.onnx.normalise.block_quantised import unpack_block_quantised
from sdc.frontends.onnx.normalise.contrib_rotary import standardise_rotary
from sdc.frontends.onnx.normalise.experts import spread_experts
from sdc.frontends.onnx.normalise.float_casts import drop_float_casts
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

__all__ = ["normalise"]

OPSET = 23  # the first with RMSNormalization, RotaryEmbedding and Attention


def normalise(model: ir.Model) -> Mapping[str, int]:
    """Rewrites the model in place.

    Returns:
        How many matches each rule had.
    """
    counts = {"merged decoder": take_cached_branch(model)}
    counts["numbers from shapes"] = infer_known_shapes(model)
    counts["float casts"] = drop_float_casts(model)
    common.InlinePass()(model)
    model.opset_imports[""] = OPSET
    counts["quantised activations"] = drop_quantised_activations(model)
    counts["weights in blocks"] = unpack_block_quantised(model)
    counts["GroupQueryAttention"] = split_group_query_attention(model)
    counts["MultiHeadAttention"] = split_multi_head_attention(model)
    counts["com.microsoft RotaryEmbedding"] = standardise_rotary(model)
    counts["onnxruntime's norms"] = split_skip_norms(model)
    counts |= fuse(model)
    counts["decomposed norms"] = fuse_norms(model)
    counts["scaled RotaryEmbedding"] = fuse_rotary(model)
    counts["hidden scores"] = add_masks(model)
    counts["Attention"] = fuse_attention(model)
    counts["repeated heads"] = drop_repeated_heads(model)
    counts["experts"] = spread_experts(model)
    common.RemoveUnusedNodesPass()(model)
    return counts
