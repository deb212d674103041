"""CUDA graphs: the launches of a function become one graph, which TVM records at the first call.

TVM's pass (``relax.transform.RewriteCUDAGraph``) lifts what depends on fixed tensors alone into a function
that ``vm.builtin.cuda_graph.run_or_capture`` runs once, records, and from then on launches whole, on the
tensors of the first call. So a function qualifies only if its caller always hands over the same tensors, and
if nothing of it is decided on the host: ``greedy`` does, whose token, position and caches stay in one place.
"""

from __future__ import annotations

import tvm
from tvm import relax

__all__ = ["capture"]


def capture(name: str) -> tvm.transform.Pass:
    """Makes one function of a module a graph; runs after memory is planned.

    Args:
        name: Of the function, which is always called with the same tensors.
    """

    @tvm.transform.module_pass(opt_level=0, name="Capture")
    def run(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        gvar = module.get_global_var(name)
        # By itself: TVM's pass would share memory between all functions, and cut graphs out of others too.
        alone = {g: f for g, f in module.functions_items() if not isinstance(f, relax.Function)}
        # No input counts as changing from call to call, so all may be recorded.
        alone[gvar] = _hands_over(module[gvar]).with_attr("num_input", 0)
        with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": True}):
            lifted = relax.transform.RewriteCUDAGraph()(tvm.IRModule(alone))
        made = module.clone()
        made.update(lifted)
        return made

    return run


def _hands_over(function: relax.Function) -> relax.Function:
    """The function with its result handed over by the virtual machine, outside the graph.

    Else nothing of the graph would be used outside it: TVM's pass then forgets that the function returns a
    tensor which a kernel of the graph has made, and its machine has no place for a graph without results.
    """
    made = function.body.body
    result = relax.Var("result", made.ty)
    call = relax.Call(relax.ExternFunc("vm.builtin.copy"), [made], ty_args=[made.ty])
    last = relax.BindingBlock([relax.VarBinding(result, call)])
    body = relax.SeqExpr([*function.body.blocks, last], result)
    return relax.Function(
        function.params, body, function.ret_ty, bool(function.is_pure), attrs=function.attrs
    )
