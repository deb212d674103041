"""Verify spike-driven: no dense product of floats is left."""

from __future__ import annotations

from sdc.errors import PassError
from sdc.ir.model import Model
from sdc.passes.base import PassContext
from sdc.passes.certificate import certify

__all__ = ["VerifySpikeDriven"]


class VerifySpikeDriven:
    """Fails the compile where the certificate still shows a dense product of floats; changes nothing."""

    name = "verify-spike-driven"

    def run(self, model: Model, ctx: PassContext) -> Model:
        self.check(model, ctx)
        return model

    def check(self, model: Model, ctx: PassContext) -> None:
        left = [f"{op.name} ({op.kind})" for op in certify(model).ops if op.dense]
        if left:
            raise PassError(self.name, f"dense products of floats are left: {', '.join(left)}")
