"""Quantise weights: every linear's weight takes values that integers times scales can hold."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from sdc.errors import PassError, PostconditionError
from sdc.ir.bfloat16 import RoundToBFloat16
from sdc.ir.model import Encoding, Model
from sdc.ir.params import FunctionSource, Param, array_param
from sdc.ir.quantised import Grid, arrives_as_integers
from sdc.passes.base import PassContext
from sdc.passes.calibrate import fit_thresholds, sampled_outputs
from sdc.passes.graph import Graph, Linear
from sdc.passes.layerwise import LayerInputs, QuantisedLayer, sweep
from sdc.passes.quantisers import (
    Moments,
    align_to_spikes,
    on_grid,
    quantise_gptq,
    quantise_rtn,
    token_weights,
)
from sdc.passes.rewriter import rewrite
from sdc.passes.spikes import dequantised, share_of_zeros
from sdc.passes.stored_grids import aligns, kept_grid
from sdc.passes.weights import WeightEdits

__all__ = ["QuantiseWeights", "Quantised", "Stored", "integer_params", "quantised_step"]

ROWS = 192  # sample tokens an operation, for its thresholds
OUTPUTS = 128  # sample outputs an operation, for what its tokens count
RIDGE = 1.0  # pull towards the given weight while compensating, a share of the mean squared input; measured


class QuantiseWeights:
    """Gives the weight of each linear values on a grid, by its encoding; the module stays a float one.

    So the loss by weights alone can be evaluated, before spikes come in. The spike rewrite then takes the
    integers and the scales apart. With the quantiser ``rtn``, values are computed when they are asked for, a
    layer at a time. With ``gptq``, they are computed here, layer by layer on inputs that the layers before
    have made spiking; each layer's clip ratio is chosen on the same inputs, by the error of its output.

    A weight that arrives as integers and scales keeps both, bit for bit, where no pass before has given it
    other values and the settings allow as many bits. A remark says how many did, and how many did not.
    """

    name = "quantise-weights"

    def run(self, model: Model, ctx: PassContext) -> Model:
        graph = Graph(model)
        for linear in graph.linears():
            if linear.name not in model.encodings:
                raise PassError(self.name, f"{linear.name} has no encoding; run calibrate first")
        edits, encodings, zeros = WeightEdits(graph), model.encodings, model.zeros
        if ctx.options.quantiser == "gptq":
            if not ctx.calibration:
                raise PassError(
                    self.name, "GPTQ needs calibration inputs; give some, or use the quantiser rtn"
                )
            layers = _LayerByLayer(model, ctx, edits)
            sweep(model, ctx, layers.quantise)
            encodings, zeros = layers.encodings, layers.zeros
        else:
            for linear in graph.linears():
                encoding = encodings[linear.name]
                grid = _kept(graph.param(linear.weight), encoding, ctx)
                if grid is not None:
                    _keep(edits, linear, grid)
                else:
                    edits.append_step(linear.var, 1, Quantised(encoding.weight_bits, encoding.weight_group))
        out = replace(rewrite(model, edits.visit, graph=graph), encodings=encodings, zeros=zeros)
        return reduce(Model.with_note, _remarks(graph, ctx), out)

    def check(self, model: Model, ctx: PassContext) -> None:
        graph = Graph(model)
        for linear in graph.linears():
            param = graph.param(linear.weight)
            if quantised_step(param) is None and not isinstance(param.source, Stored):
                raise PostconditionError(self.name, f"the weight of {linear.name} is not quantised")


def _kept(param: Param, encoding: Encoding, ctx: PassContext) -> Grid | None:
    """The integers that a weight keeps; its encoding has their width and groups since calibration."""
    grid = kept_grid(param, ctx.options, encoding.group)
    same = grid is not None and (grid.bits, grid.group) == (encoding.weight_bits, encoding.weight_group)
    return grid if same else None


def _keep(edits: WeightEdits, linear: Linear, grid: Grid) -> None:
    name = linear.name
    source = Stored(grid.integers.renamed(f"{name}.q"), grid.scales.renamed(f"{name}.scale"))
    edits.set(linear.var, 1, Param(edits.own_name(linear.var, 1), grid.integers.shape, "float32", source))


def _remarks(graph: Graph, ctx: PassContext) -> Iterator[str]:
    """What became of weights that arrived as integers."""
    model, fates = graph.model, Counter[bool]()
    for linear in graph.linears():
        param = graph.param(linear.weight)
        if arrives_as_integers(param):
            fates[_kept(param, model.encodings[linear.name], ctx) is not None] += 1
    start, every = QuantiseWeights.name, fates.total()
    if fates[True]:
        yield f"{start}: {fates[True]} of {every} linears keep the integers and scales of the file"
    if fates[False]:
        why = f"their bits or blocks do not fit {ctx.options.weights} in groups of {ctx.options.group}"
        if aligns(ctx.options):
            why = "smoothing or rotation gives them other values; smoothing=0 and block=0 keep them"
        yield f"{start}: {fates[False]} of {every} linears with integers are requantised: {why}"


class _LayerByLayer:
    """GPTQ of one linear after another; keeps integers, encodings as calibrated, and zeros among counts."""

    def __init__(self, model: Model, ctx: PassContext, edits: WeightEdits) -> None:
        self.ctx, self.edits = ctx, edits
        self.encodings: dict[str, Encoding] = dict(model.encodings)
        self.zeros: dict[str, float] = dict(model.zeros)

    def quantise(self, seen: LayerInputs) -> QuantisedLayer:
        name, options = seen.linear.name, self.ctx.options
        encoding = self.encodings[name]
        picks = np.linspace(0, len(seen.spiking) - 1, min(ROWS, len(seen.spiking))).astype(int)
        outputs = sampled_outputs(seen.weight, self.ctx.random(name))
        encoding = fit_thresholds(seen.spiking[picks], outputs, encoding, options, seen.exact[picks])
        spikes = dequantised(seen.spiking, encoding)
        grid = _kept(self.edits.graph.param(seen.linear.weight), self.encodings[name], self.ctx)
        self.encodings[name] = encoding
        self.zeros[name] = share_of_zeros(seen.spiking[picks], encoding)
        if grid is not None:
            _keep(self.edits, seen.linear, grid)
            return QuantisedLayer(encoding, grid.integers.value(), grid.scales.value(), spikes)
        counts = token_weights(seen.exact @ outputs[:: -(-len(outputs) // OUTPUTS)].T)
        moments = Moments.of(seen.exact, spikes, counts)
        weight = seen.weight
        if options.compensation:
            weight = align_to_spikes(weight, moments, RIDGE, options.compensation)
        made = quantise_gptq(weight, moments.spikes, encoding.weight_bits, encoding.weight_group)
        self.keep(seen, *made)
        return QuantisedLayer(encoding, *made, spikes)

    def keep(self, seen: LayerInputs, integers: NDArray, scales: NDArray) -> None:
        name, var = seen.linear.name, seen.linear.var
        source = Stored(
            stored_param(f"{name}.q", integers, self.ctx.scratch),
            _scales(
                stored_param(f"{name}.scale", scales, self.ctx.scratch), self.encodings[name].weight_bits
            ),
        )
        self.edits.set(var, 1, Param(self.edits.own_name(var, 1), integers.shape, "float32", source))


def stored_param(name: str, array: NDArray, folder: Path | None) -> Param:
    """A parameter whose values lie in a file of ``folder``, or in memory where that is None."""
    if folder is None:
        return array_param(name, array)
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, array)
    source = FunctionSource(partial(np.load, path), "computed once, in a file")
    return Param(name, tuple(array.shape), str(array.dtype), source)


@dataclass(frozen=True)
class Stored:
    """A weight [N, K] whose integers and scales have been computed."""

    integers: Param
    scales: Param

    def load(self) -> NDArray:
        """Integers times scales, float32."""
        return on_grid(self.integers.value(), self.scales.value())


@dataclass(frozen=True)
class Quantised:
    """Rounds a weight [N, K] to ``bits`` bits with a scale per row and ``group`` columns (0: all)."""

    bits: int
    group: int

    def __call__(self, array: NDArray) -> NDArray:
        return on_grid(*quantise_rtn(array.astype(np.float32), self.bits, self.group))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"int{self.bits}, a scale for every {self.group or 'row'}"


def quantised_step(param: Param) -> Quantised | None:
    """The quantisation that ends a parameter's transforms, if one does."""
    last = param.transforms[-1] if param.transforms else None
    return last if isinstance(last, Quantised) else None


def integer_params(param: Param, name: str) -> tuple[Param, Param]:
    """The integers ``name.q`` [N, K] int8 and scales ``name.scale`` [N, groups] of a quantised weight.

    Both come from one computation; the last few are kept, so that a layer is not quantised twice.

    Raises:
        PassError: The weight is not quantised.
    """
    if isinstance(param.source, Stored):
        return param.source.integers, param.source.scales
    step = quantised_step(param)
    if step is None:
        raise PassError("rewrite-matmul-to-spikes", f"the weight of {name} is not quantised")
    exact = replace(param, transforms=param.transforms[:-1])
    rows, width = param.shape
    shared = _Integers(exact, step)
    groups = width // (step.group or width)
    return (
        Param(f"{name}.q", (rows, width), "int8", _Part(shared, 0)),
        _scales(Param(f"{name}.scale", (rows, groups), "float32", _Part(shared, 1)), step.bits),
    )


def _scales(param: Param, bits: int) -> Param:
    """Scales as the quantisers make them: bfloat16 numbers below 8 bits (see :func:`fit_scales`)."""
    return param.then(RoundToBFloat16()) if bits < 8 else param


@dataclass(frozen=True, eq=False)
class _Integers:
    """A weight that is quantised when one of its parts is asked for, by whichever thread asks first."""

    exact: Param
    step: Quantised
    lock: Lock = field(default_factory=Lock)

    def compute(self) -> tuple[NDArray, NDArray]:
        with self.lock:
            found = next((made for owner, made in tuple(_RECENT) if owner is self), None)
            if found is None:
                weight = self.exact.value().astype(np.float32, copy=False)
                found = quantise_rtn(weight, self.step.bits, self.step.group)
                _RECENT.append((self, found))
            return found


# Threads that write weights ask for both parts of one within a few others; what is older has been written.
_RECENT: deque[tuple[_Integers, tuple[NDArray, NDArray]]] = deque(maxlen=4)


@dataclass(frozen=True)
class _Part:
    of: _Integers
    index: int

    def load(self) -> NDArray:
        """The integers (0) or the scales (1)."""
        return self.of.compute()[self.index]
