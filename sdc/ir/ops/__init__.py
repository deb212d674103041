"""The operations of the dialect, one file each: builder, shape inference, NumPy reference, legalisation.

Importing this package registers them with TVM as ``relax.sdc.<name>``.
"""

from sdc.ir.ops._register import (
    OPS,
    OpSpec,
    attributes,
    dtype_of,
    is_dimension,
    is_op,
    shape_of,
    static,
)
from sdc.ir.ops.attention import attention
from sdc.ir.ops.hadamard import hadamard
from sdc.ir.ops.kv_append import kv_append
from sdc.ir.ops.linear import linear
from sdc.ir.ops.readout import readout
from sdc.ir.ops.rotary import rotary
from sdc.ir.ops.spike_accumulate import spike_accumulate
from sdc.ir.ops.spike_attention import spike_attention
from sdc.ir.ops.spike_encode import count_dtype, spike_encode, threshold_factor
from sdc.ir.ops.spike_matmul import spike_matmul
from sdc.ir.ops.spike_train import spike_train
from sdc.ir.ops.take_share import take_share

__all__ = [
    "OPS",
    "OpSpec",
    "attention",
    "attributes",
    "count_dtype",
    "dtype_of",
    "hadamard",
    "is_dimension",
    "is_op",
    "kv_append",
    "linear",
    "readout",
    "rotary",
    "shape_of",
    "spike_accumulate",
    "spike_attention",
    "spike_encode",
    "spike_matmul",
    "spike_train",
    "static",
    "take_share",
    "threshold_factor",
]
