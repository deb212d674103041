"""A pass of one's own: counts the operations of a model. ``python examples/own_pass.py MODEL``."""

import sys
from collections import Counter

from sdc.api import lift
from sdc.config import CompileConfig
from sdc.ir.model import Model
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph
from sdc.passes.pipeline import run_passes
from sdc.passes.registry import find_pass
from sdc.source import open_source


class CountOperations:
    """Adds a remark on how often each operation occurs; changes nothing else."""

    name = "count-operations"

    def run(self, model: Model, ctx: PassContext) -> Model:
        values = (binding.value for binding in Graph(model).bindings)
        kinds = Counter(str(v.op.name) for v in values if hasattr(v, "op") and hasattr(v.op, "name"))
        return model.with_note(", ".join(f"{n} x {kind}" for kind, n in kinds.most_common()))

    def check(self, model: Model, ctx: PassContext) -> None:
        """Nothing to check: the module is as it was."""


model = lift(open_source(sys.argv[1]), CompileConfig.of())
model = run_passes(model, [find_pass("canonicalise"), CountOperations()], PassContext(), verify=True)
print(model.notes[-1])
