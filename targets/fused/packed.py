"""Weights and states of lowered functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from tvm import relax

from sdc.errors import TargetError
from sdc.ir.params import Param, Transform, array_param
from sdc.targets.fused.match import Limits
from sdc.targets.fused.specs import limits

__all__ = ["PackedWeights"]


@dataclass
class PackedWeights:
    """Weights of the lowered functions in the order of their first use, shared by all functions."""

    source: Mapping[str, Param]
    params: dict[str, Param] = field(default_factory=dict)
    vars: dict[str, relax.Var] = field(default_factory=dict)

    def var(
        self, name: str, packing: Transform | None = None, suffix: str = "", dtype: str = ""
    ) -> relax.Var:
        """The variable of a weight, packed for its kernel."""
        key = name + suffix
        if key not in self.params:
            param = self.source[name]
            param = param if packing is None else param.then(packing, name=key, dtype=dtype or None)
            self.params[key] = param
            self.vars[key] = relax.Var(key, relax.TensorType(list(param.shape), param.dtype))
        elif packing is not None and packing not in self.params[key].transforms:
            raise TargetError(f"{name} is read by two operations that want it packed differently")
        return self.vars[key]

    def own(self, param: Param) -> relax.Var:
        """The variable of a parameter that the target made itself."""
        if param.name not in self.params:
            self.params[param.name] = param
            self.vars[param.name] = relax.Var(param.name, relax.TensorType(list(param.shape), param.dtype))
        return self.vars[param.name]

    def limits(self, encoders: tuple[Limits, ...]) -> relax.Var:
        """The numbers of encoders, [3] or [encoders, 3]; equal ones are kept once."""
        name = "limits:" + ";".join(",".join(f"{n:.9g}" for n in each) for each in encoders)
        if name not in self.params:
            rows = np.array([limits(*each) for each in encoders])
            self.params[name] = array_param(name, rows[0] if len(encoders) == 1 else rows)
            self.vars[name] = relax.Var(name, relax.TensorType(list(self.params[name].shape), "float32"))
        return self.vars[name]
