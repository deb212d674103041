"""A program's synapses as a NIR graph (Pedersen et al., Nature Communications 2024; https://neuroir.org).

Each projection becomes a ``Linear`` from its source's axons, and each set of accumulators an integrator ``I``
behind it, with r = 1: fed with the signed spikes of a train, step by step, its state is the accumulator. The
weight of a step (2^t of bitwise trains) is not part of a NIR graph: it must come with the spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sdc.errors import TargetError
from sdc.targets.neuro.export.projections import Projection

__all__ = ["to_nir"]


def to_nir(found: Sequence[Projection]) -> Any:
    """A ``nir.NIRGraph``; nodes are named ``axons_SOURCE_TAG``, ``synapses_...``, ``sums_...``, ``out_...``.

    Raises:
        TargetError: NIR is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise TargetError("NIR is not installed: pip install 'sdc-compiler[neuro-check]'") from error
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    widths: dict[str, int] = {}
    for projection in found:
        name = f"axons_{projection.source}_{projection.tag}"
        widths[name] = max(widths.get(name, 0), projection.weight.shape[0])
    for name, width in widths.items():
        nodes[name] = nir.Input(input_type={"input": np.array([width])})
    for projection in found:
        source = f"axons_{projection.source}_{projection.tag}"
        where = f"{projection.source}_{projection.tag}_{projection.target}"
        matrix = projection.matrix
        weight = np.zeros((len(matrix), widths[source]), np.float32)
        weight[:, : matrix.shape[1]] = matrix
        nodes[f"synapses_{where}"] = nir.Linear(weight=weight)
        nodes[f"sums_{where}"] = nir.I(r=np.ones(len(matrix), np.float32))
        nodes[f"out_{where}"] = nir.Output(output_type={"output": np.array([len(matrix)])})
        path = (source, f"synapses_{where}", f"sums_{where}", f"out_{where}")
        edges += list(pairwise(path))
    return nir.NIRGraph(nodes, edges)
