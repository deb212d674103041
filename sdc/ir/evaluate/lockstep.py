"""Several runs of one function side by side, an operation of all of them at a time.

What calibrates a layer wants the inputs of all windows at once, and goes on from what it made of that layer:
so no run may be ahead of another, and the values of one layer are all that is held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray
from tvm import relax

from sdc.errors import SdcError
from sdc.ir.evaluate.evaluator import Evaluator, Frame, lifetimes
from sdc.ir.model import Model

__all__ = ["Lockstep", "Replace"]

Replace = Callable[[relax.Var, relax.Call, "Lockstep"], Sequence[Any] | None]
"""Called with each call and the variable it defines; returns a value a run in place of the operation's own
results, or None to have it computed."""


class Lockstep:
    """Runs of one function, all at the same operation.

    Args:
        model: The module and its lazy weights.
        inputs: The run-time inputs of each run.
    """

    def __init__(self, model: Model, inputs: Sequence[tuple[NDArray, ...]]) -> None:
        function = model.module[model.entry]
        evaluator = Evaluator(model)
        self.frames = [Frame(evaluator, function) for _ in inputs]
        for frame, each in zip(self.frames, inputs, strict=True):
            frame.bind_inputs(model.entry, each)
        self.bindings = [b for block in function.body.blocks for b in block.bindings]

    def values(self, expr: relax.Expr) -> list[Any]:
        """The value of an argument in each run."""
        return [frame.value(expr) for frame in self.frames]

    def fork(self) -> None:
        """One more run, a copy of the first as it is by now. Called in a replacement, which then returns a
        value for it too."""
        first = self.frames[0]
        copy = Frame(first.owner, first.function)
        copy.values, copy.symbols, copy.weights = dict(first.values), first.symbols, first.weights
        self.frames.append(copy)

    def run(self, replace: Replace, until: relax.Var) -> None:
        """Runs up to and including the binding of ``until``; what comes after it is not computed.

        Raises:
            SdcError: Nothing binds ``until``.
        """
        names = [binding.var for binding in self.bindings]
        end = next((i for i, var in enumerate(names) if var.same_as(until)), None)
        if end is None:
            raise SdcError(f"the function binds no variable {until.name}")
        bindings = self.bindings[: end + 1]
        dying, _ = lifetimes(bindings, until)  # caches that the function returns are among them
        for index, binding in enumerate(bindings):
            made = None
            if isinstance(binding.value, relax.Call) and not isinstance(binding, relax.MatchCast):
                made = replace(binding.var, binding.value, self)
            for number, frame in enumerate(self.frames):
                if made is None:
                    frame.step(binding)
                else:
                    frame.values[binding.var] = made[number]
            for var in dying.get(index, ()):
                for frame in self.frames:
                    frame.values.pop(var, None)
