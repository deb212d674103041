"""The functions of a program, specialised and lowered, and their compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, te, tirx, topi

from sdc.errors import TargetError
from sdc.ir.model import Model
from sdc.ir.ops import shape_of
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.rebuild import Rebuild
from sdc.targets.fused.signature import State

__all__ = ["CHUNK", "Lowered", "bound", "compile_module", "lower_model"]

# Tokens that prefill and score take at once: many, so that a weight is read once for all of them, but few
# enough that their activations stay in the second-level cache.
CHUNK = 128


@dataclass(frozen=True)
class Lowered:
    """A lowered program.

    Attributes:
        module: Relax functions over kernels.
        weights: The packed weights, in the order of the functions' last parameters.
        states: The inputs that live between calls.
        launches: Kernel calls per function.
    """

    module: tvm.IRModule
    weights: PackedWeights
    states: tuple[State, ...]
    launches: dict[str, int]


def lower_model(
    model: Model, lowering: Rebuild, finish: Callable[[Model, Rebuild], None] | None = None
) -> Lowered:
    """``prefill``, ``score`` and ``decode`` of a decoder, or ``main`` of a stateless graph.

    Args:
        model: After the spike rewrite.
        lowering: The target's, fresh.
        finish: Adds functions of the target's own.

    Raises:
        TargetError: The module holds something that cannot be compiled.
    """
    if model.info.kind == "decoder":
        whole, single = bound(model, {"batch": 1}), bound(model, {"batch": 1, "seq": 1})
        lowering.add("decode", single)
        lowering.add("prefill", whole, last_only=True, bound=min(CHUNK, model.info.max_seq))
        lowering.add("score", whole, bound=min(CHUNK, model.info.max_seq))
    else:
        lowering.add("main", model.module["main"])
    if finish is not None:
        finish(model, lowering)
    return Lowered(lowering.builder.finalize(), lowering.weights, tuple(lowering.states), lowering.launches)


def bound(model: Model, sizes: dict[str, int]) -> relax.Function:
    """The entry function with symbolic sizes replaced; the other sizes stay."""
    function = model.module[model.entry]
    names = {str(v.name): v for v in relax.analysis.free_symbolic_vars(function)}
    names |= {str(v.name): v for v in relax.analysis.defined_symbolic_vars(function)}
    present: dict[Any, int] = {names[k]: size for k, size in sizes.items() if k in names}
    return function.bind_symbolic_vars(present) if present else function


def compile_module(
    module: tvm.IRModule,
    target: tvm.target.Target,
    name: str,
    *,
    schedule: tvm.transform.Pass | None = None,
    planned: tvm.transform.Pass | None = None,
    skip: Sequence[str] = (),
) -> relax.VMExecutable:
    """Machine code of a lowered program.

    Kernels do not check their arguments: the virtual machine gives them what it has made, in the shapes that
    Relax has inferred, and inputs are checked before it runs. Such checks are a third of the machine code and
    of the time that LLVM takes.

    Args:
        name: Of the target, for messages.
        schedule: Runs after the naive legalisation, under the target.
        planned: Runs when memory is planned.
        skip: TVM's passes that are not wanted.

    Raises:
        TargetError: TVM cannot compile it.
    """
    try:
        with tvm.transform.PassContext(disabled_pass=list(skip), config={"tirx.disable_assert": True}):
            return tvm.compile(module, target=target, relax_pipeline=_pipeline(target, schedule, planned))
    except (RuntimeError, ValueError, TypeError) as error:
        raise TargetError(f"TVM could not compile the program for {name}: {error}") from error


def _pipeline(
    target: tvm.target.Target, schedule: tvm.transform.Pass | None, planned: tvm.transform.Pass | None
) -> tvm.transform.Pass:
    """TVM's default build pipeline for Relax, with one difference.

    Reshapes stay operations (the virtual machine makes them views), where the default first turns them into
    loops and then looks for loops that only reshape, which it cannot do on kernels without blocks.
    """
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            relax.backend.DispatchSampling(),
            relax.backend.DispatchSortScan(),
            passes.LegalizeOps({"relax.nn.relu": _relu, "relax.take": _take}, skip_ops=["relax.reshape"]),
            *([] if schedule is None else [_under(target, schedule)]),
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            *([] if planned is None else [planned]),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            _skip_fixed_checks(),
            passes.AttachGlobalSymbol(),
        ]
    )


def _under(target: tvm.target.Target, schedule: tvm.transform.Pass) -> tvm.transform.Pass:
    """A pass that is told the target."""

    @tvm.transform.module_pass(opt_level=0, name="Schedule")
    def run(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        with target:
            return schedule(module)

    return run


def _relu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """max(x, 0) that lets NaN pass; TVM's own turns NaN into 0, and the error would never be seen."""

    def compute(x: te.Tensor) -> te.Tensor:
        zero = tirx.const(0, x.dtype)
        return te.compute(x.shape, lambda *i: tirx.Select(x(*i) < zero, zero, x(*i)), name="relu")

    return builder.call_te(compute, *call.args, primfunc_name_hint="relu")


def _take(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Rows by index, which stays inside the table: TVM's own reads whatever lies at an index out of range."""
    axis = call.attrs.axis
    return builder.call_te(topi.take, *call.args, None if axis is None else int(axis), mode="clip")


def _skip_fixed_checks() -> tvm.transform.Pass:
    """Drops the checks of shape and dtype of parameters that the runner provides, two a weight and call.

    A decoder of 30 layers has 300 weights; checking them again for every token costs a tenth of the token.
    Parameters of symbolic shape keep theirs: the same calls read the sizes.
    """
    checks = ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")

    def is_check(value: Any, fixed: set[Any]) -> bool:
        return (
            isinstance(value, relax.Call)
            and isinstance(value.op, relax.ExternFunc)
            and str(value.op.global_symbol) in checks
            and value.args[0] in fixed
        )

    def strip(function: relax.Function) -> relax.Function:
        tensors = [v for v in function.params if isinstance(v.ty, relax.TensorType)]
        fixed = {v for v in tensors if all(isinstance(d, int) for d in shape_of(v, "parameter"))}
        blocks = [
            relax.BindingBlock([b for b in block.bindings if not is_check(b.value, fixed)])
            for block in function.body.blocks
        ]
        body = relax.SeqExpr(blocks, function.body.body)
        return relax.Function(
            function.params, body, function.ret_ty, bool(function.is_pure), attrs=function.attrs
        )

    @tvm.transform.module_pass(opt_level=0, name="SkipFixedChecks")
    def run(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        made = module.clone()
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                made.update_func(gvar, strip(function))
        return made

    return run
