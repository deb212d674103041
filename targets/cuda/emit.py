"""Words for writing CUDA kernels in TIR: threads, shared arrays, registers, barriers and warp operations.

What TIR has no word for is a device function of a few instructions in CUDA C++, called by name
(:data:`DEVICE_FUNCTIONS`); the tests' emulator knows the same names.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.script import builder as T

from sdc.targets.fused.emit import const, load, store

__all__ = [
    "DEVICE_FUNCTIONS",
    "MMA_K",
    "WARP",
    "WORD",
    "barrier",
    "blocks",
    "count_bits",
    "dot4",
    "exp",
    "first_bit",
    "integer_bits",
    "let",
    "load_words",
    "loop",
    "mma",
    "registers",
    "shared",
    "shuffle",
    "shuffle_xor",
    "store_scalar",
    "threads",
    "unrolled",
    "vote",
    "warp_max",
    "warp_sum",
    "while_",
]

Expr = Any
Buffer = Any

WARP = 32
# Bytes of a 32-bit word: dp4a and the tensor cores take four 8-bit numbers at a time.
WORD = 4
# Channels of one tensor-core instruction on bytes: mma.m16n8k32 (PTX ISA, section 9.7.14, "Matrix
# multiply-accumulate operation using mma instruction").
MMA_K = 32

_HEAD = "__forceinline__ __device__"
DEVICE_FUNCTIONS: dict[str, str] = {
    "sdc_dot4_s8": f"{_HEAD} int sdc_dot4_s8(int a, int b, int c) {{ return __dp4a(a, b, c); }}",
    # dp4a takes the two operands' signedness apart (PTX ISA, section 9.7.1, "dp4a").
    "sdc_dot4_u8": (
        f"{_HEAD} int sdc_dot4_u8(int a, int b, int c) {{ int d; "
        'asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }'
    ),
    "sdc_shuffle_xor_int32": (
        f"{_HEAD} int sdc_shuffle_xor_int32(int v, int m) {{ return __shfl_xor_sync(0xffffffffu, v, m); }}"
    ),
    "sdc_shuffle_xor_float32": (
        f"{_HEAD} float sdc_shuffle_xor_float32(float v, int m) "
        "{ return __shfl_xor_sync(0xffffffffu, v, m); }"
    ),
    "sdc_shuffle_xor_int64": (
        f"{_HEAD} long long sdc_shuffle_xor_int64(long long v, int m) "
        "{ return __shfl_xor_sync(0xffffffffu, v, m); }"
    ),
    "sdc_shuffle_int64": (
        f"{_HEAD} long long sdc_shuffle_int64(long long v, int lane) "
        "{ return __shfl_sync(0xffffffffu, v, lane); }"
    ),
    "sdc_shuffle_int32": (
        f"{_HEAD} int sdc_shuffle_int32(int v, int lane) {{ return __shfl_sync(0xffffffffu, v, lane); }}"
    ),
    "sdc_vote": f"{_HEAD} int sdc_vote(int p) {{ return (int)__ballot_sync(0xffffffffu, p); }}",
    "sdc_count_bits": f"{_HEAD} int sdc_count_bits(int bits) {{ return __popc(bits); }}",
    "sdc_first_bit": f"{_HEAD} int sdc_first_bit(int bits) {{ return __ffs(bits) - 1; }}",
}
for _kind in ("s8", "u8"):
    DEVICE_FUNCTIONS[f"sdc_mma_{_kind}"] = (
        f"{_HEAD} void sdc_mma_{_kind}(int* d, int a0, int a1, int a2, int a3, int b0, int b1) {{ "
        f'asm("mma.sync.aligned.m16n8k32.row.col.s32.{_kind}.s8.s32 '
        '{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" '
        ': "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) '
        ': "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1)); }'
    )


def _device(name: str, *args: Expr, gives: str) -> Expr:
    return cuda_func_call(name, *args, source_code=DEVICE_FUNCTIONS[name], return_type=gives)


def blocks(axis: str, count: Any) -> AbstractContextManager[Expr]:
    """Thread blocks along axis x, y or z."""
    return T.launch_thread(f"blockIdx.{axis}", count)


def threads(count: int) -> AbstractContextManager[Expr]:
    """Threads of a block."""
    return T.launch_thread("threadIdx.x", count)


def shared(shape: tuple[int, ...], dtype: str) -> Buffer:
    """An array that a block's threads share (48 KiB a block at most)."""
    return T.alloc_buffer(shape, dtype, scope="shared", align=16)


def registers(size: int, dtype: str) -> Buffer:
    """A thread's own array: in registers where every index is known when compiling."""
    return T.alloc_buffer((size,), dtype, scope="local")


def barrier() -> None:
    """All threads of the block come here before one goes on; what they wrote is then seen by all."""
    T.evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared"))


def loop(extent: Any) -> AbstractContextManager[Expr]:
    """A loop over 0 .. extent - 1."""
    return T.serial(0, extent)


def unrolled(extent: int) -> AbstractContextManager[Expr]:
    """A loop that is written out, so that its variable may index registers."""
    return T.unroll(0, extent)


def while_(condition: Expr) -> AbstractContextManager[Any]:
    """A loop for as long as the condition holds."""
    return T.While(condition)


def let(value: Expr) -> Expr:
    """Names a value, so that it is computed once.

    All but indices pass through a register array, which TVM's simplifier does not see through: it would
    substitute pure values into each other, and a chain of them grows exponentially.
    """
    dtype = str(value.ty.dtype)
    if dtype.startswith("int") and "x" not in dtype:
        return T.bind(value)
    held = registers(1, dtype)
    store(held, (0,), value)
    return load(held, (0,))


def load_words(buffer: Buffer, index: tuple[Any, ...], words: int) -> Expr:
    """``words`` 32-bit words (1, 2 or 4) of a byte buffer in one access; ``index`` counts bytes."""
    loaded = load(buffer, index, WORD * words)
    return tirx.reinterpret("int32" if words == 1 else f"int32x{words}", loaded)


def store_scalar(buffer: Buffer, value: Expr) -> None:
    """Writes a buffer of rank 0."""
    T.buffer_store(buffer, value, [])


def integer_bits(value: Expr) -> Expr:
    """The bits of a float32 as int32."""
    return tirx.reinterpret("int32", value)


def exp(value: Expr) -> Expr:
    """e^x, float32 within 2 ulp (CUDA Math API, ``expf``)."""
    return tirx.call_pure_extern("float32", "expf", value)


def dot4(a: Expr, b: Expr, acc: Expr, *, unsigned: bool = False) -> Expr:
    """acc + four byte products, exact in int32; ``a``'s bytes are unsigned on request, ``b``'s are signed."""
    return _device("sdc_dot4_u8" if unsigned else "sdc_dot4_s8", a, b, acc, gives="int32")


def mma(acc: Buffer, at: int, a: list[Expr], b: list[Expr], *, unsigned: bool = False) -> None:
    """acc[at : at + 4] += A B on the tensor cores: A [16, 32] and B [32, 8] bytes, C [16, 8] int32.

    Of lane l, with q = l mod 4 and r = l div 4 (PTX ISA, "Matrix Fragments for mma.m16n8k32"): ``a`` holds
    A[r, 4q..], A[r + 8, 4q..], A[r, 16 + 4q..], A[r + 8, 16 + 4q..], four bytes each; ``b`` holds B[4q.., r]
    and B[16 + 4q.., r]; C[r, 2q], C[r, 2q + 1], C[r + 8, 2q], C[r + 8, 2q + 1].
    """
    pointer = acc.access_ptr("rw", offset=at)
    T.evaluate(_device("sdc_mma_u8" if unsigned else "sdc_mma_s8", pointer, *a, *b, gives="void"))


def shuffle_xor(value: Expr, mask: int) -> Expr:
    """The value of lane ^ mask; all 32 lanes take part."""
    dtype = str(value.ty.dtype)
    return _device(f"sdc_shuffle_xor_{dtype}", value, const(mask, "int32"), gives=dtype)


def shuffle(value: Expr, lane: Expr) -> Expr:
    """The integer of a lane."""
    dtype = str(value.ty.dtype)
    return _device(f"sdc_shuffle_{dtype}", value, lane, gives=dtype)


def vote(condition: Expr) -> Expr:
    """A warp's conditions as the bits of an int32, lane 0 lowest."""
    return _device("sdc_vote", condition.astype("int32"), gives="int32")


def first_bit(bits: Expr) -> Expr:
    """The number of the lowest bit that is set."""
    return _device("sdc_first_bit", bits, gives="int32")


def count_bits(bits: Expr) -> Expr:
    """How many bits are set."""
    return _device("sdc_count_bits", bits, gives="int32")


def warp_sum(buffer: Buffer, at: int, *, first: int = 1, last: int = WARP) -> None:
    """buffer[at] = the sum over lanes that differ in the bits first .. last / 2, in all of them."""
    mask = first
    while mask < last:
        store(buffer, (at,), load(buffer, (at,)) + shuffle_xor(load(buffer, (at,)), mask))
        mask *= 2


def warp_max(buffer: Buffer, at: int, *, first: int = 1, last: int = WARP) -> None:
    """As :func:`warp_sum`, the maximum."""
    mask = first
    while mask < last:
        store(buffer, (at,), tirx.max(load(buffer, (at,)), shuffle_xor(load(buffer, (at,)), mask)))
        mask *= 2
