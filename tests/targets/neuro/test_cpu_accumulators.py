"""Every accumulator that the simulated machine adds up is the CPU target's, bit for bit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import tvm
from helpers.spiking_llama import spiking_llama

from sdc.config import CompileConfig
from sdc.ir.model import Model
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import best_level
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear
from sdc.targets.cpu.packing import PackWeight
from sdc.targets.neuro.codegen.module import compile_module
from sdc.targets.neuro.codegen.values import PlainPlacement
from sdc.targets.neuro.runner import DecoderRunner, Signature
from sdc.targets.neuro.simulate.core import Core

ROWS = re.compile(r"(.*) rows (\d+)\.\.(\d+), channels (\d+)\.\.(\d+)$")
KEYS = re.compile(r"(.*): query head (\d+) meets the keys$")
VALUES = re.compile(r"(.*): probabilities of query head (\d+)$")
CHANNELS = re.compile(r" channels (\d+)\.\.(\d+) to the cache of \d+ tokens$")
LEVELS, GROUP, HEADS = 7, 16, 4


@dataclass
class Spy:
    """Looks into the cores while they work.

    Attributes:
        sums: (layer, token) -> accumulators [groups, rows] int32, put together from all tiles.
        products: Of attentions: what the event loop added up, and what counts and the cache in the core's
            memory give as a product of matrices.
        made: (core, instruction, token) -> counts.
        latest: core -> the counts that it made last.
    """

    runner: DecoderRunner
    shapes: dict[str, tuple[int, int]]
    sums: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    products: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    made: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict)
    latest: dict[int, np.ndarray] = field(default_factory=dict)

    def __call__(self, core: int, pc: int, counts: np.ndarray, theta: np.ndarray) -> None:
        self.made[core, pc, self.runner.position] = counts
        self.latest[core] = counts

    def put(self, core: int, tag: int, packets: int) -> None:
        """Nothing to see."""

    def take(self, tag: int, sources: int) -> None:
        """Nothing to see."""

    def executed(self, core: Core, pc: int) -> None:
        """At the end of a train all accumulators are complete."""
        if core.code[pc][0] != "endl" or core.loops or 0 not in core.slots:
            return
        slot, place = core.slots[0], core.place()
        if match := ROWS.match(place):
            self.tile(match, core.i[slot.acc.address :])
        elif match := KEYS.match(place):
            cache = core.s.view(np.int8)[slot.rows :][: slot.group * slot.stride].reshape(slot.group, -1)
            counts, head = self.queries(match[1]), int(match[2])
            channels = CHANNELS.search(core.program.notes[0])
            assert channels is not None
            own = counts[head][int(channels[1]) : int(channels[2]) + 1]
            seen = core.pos + 1
            self.products.append(
                (core.i[slot.acc.address :][:seen].copy(), own @ cache[:, :seen].astype(int))
            )
        elif VALUES.match(place):
            seen = core.pos + 1
            cache = core.s.view(np.int8)[slot.rows :][: seen * slot.stride].reshape(seen, slot.stride)
            (main,) = core.inbox.queues[core.code[pc - 1][1][0]]
            mixed = core.i[slot.acc.address :][: slot.stride].copy()
            self.products.append((mixed, self.latest[main][:seen] @ cache.astype(int)))

    def queries(self, layer: str) -> np.ndarray:
        """The token's query counts [heads, d]."""
        probe = next(p for p in self.runner.signature.probes if p.name == layer)
        return self.made[probe.core, probe.pc, self.runner.position].reshape(HEADS, -1).astype(int)

    def tile(self, match: re.Match[str], memory: np.ndarray) -> None:
        layer, (start, stop, first, last) = match[1], (int(text) for text in match.groups()[1:])
        rows, width = self.shapes[layer]
        whole = self.sums.setdefault(
            (layer, self.runner.position), np.full((width // GROUP, rows), -(2**31), np.int32)
        )
        low, high = first // GROUP, (last + 1) // GROUP
        part = memory[: (high - low) * (stop + 1 - start)].reshape(high - low, -1)
        whole[low:high, start : stop + 1] = part


def watched(model: Model, budget: int) -> tuple[DecoderRunner, Spy]:
    compiled = compile_module(model, PlainPlacement(budget))
    signature = Signature.of("decoder", model.info.vocab, compiled)
    runner = DecoderRunner(compiled.program, compiled.external, signature)
    shapes = {
        name.removesuffix(".weight"): param.shape
        for name, param in model.params.items()
        if name.endswith(".weight")
    }
    spy = Spy(runner, shapes)
    runner.machine.watch = runner.machine.observer = spy
    return runner, spy


@lru_cache
def kernel(rows: int, width: int, bits: int) -> tuple[LinearSpec, Any]:
    """The CPU target's kernel that adds up, and its specification."""
    spec, isa = LinearSpec(rows, width, GROUP, bits=bits, levels=LEVELS, raw=True), best_level()
    return spec, build({"kernel": spike_linear(spec, isa)}, isa.target())["kernel"]


def cpu_accumulators(counts: np.ndarray, weight: np.ndarray, bits: int) -> np.ndarray:
    """Of counts [tokens, width]: int32 [tokens, groups, rows]."""
    rows, width = weight.shape
    spec, function = kernel(rows, width, bits)
    out = tvm.runtime.tensor(np.zeros((len(counts), width // GROUP, rows), np.int32))
    packed = np.asarray(PackWeight(spec)(weight), order="C")
    function(tvm.runtime.tensor(counts.astype(np.int8)), tvm.runtime.tensor(packed), out)
    return out.numpy()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
def test_accumulators_of_every_linear_layer_equal_the_cpu_targets(coding, bits) -> None:
    model = spiking_llama(coding=coding, weight_bits=bits, levels=LEVELS, group=GROUP)
    runner, spy = watched(model, budget=400)
    logits = runner.score([3, 17, 39])
    assert np.isfinite(logits).all()
    linears = [probe for probe in runner.signature.probes if probe.kind == "linear"]
    assert len(linears) == 4 * 2 + 1
    for probe in linears:
        weight = model.params[f"{probe.name}.weight"].value()
        counts = np.stack([spy.made[probe.core, probe.pc, token] for token in range(3)])
        assert counts.any(axis=1).all()
        got = np.stack([spy.sums[probe.name, token] for token in range(3)])
        np.testing.assert_array_equal(got, cpu_accumulators(counts, weight, bits))


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
def test_logits_and_caches_are_the_cpu_targets_bit_for_bit(coding, tmp_path) -> None:
    """The float parts too: a whole prompt at once there, token by token here."""
    model, tokens = spiking_llama(coding=coding, levels=LEVELS, group=GROUP), [3, 17, 39, 5, 8]
    target = CpuTarget((best_level().name,))
    built = target.build(model, CompileConfig.of(target="cpu"), tmp_path, lambda *_step: None)
    cpu = target.load(tmp_path, built.manifest)
    neuro, _ = watched(model, budget=400)
    np.testing.assert_array_equal(neuro.score(tokens), cpu.score(tokens))


@pytest.mark.parametrize("budget", [90, 10**6])
@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
def test_products_of_attention_are_those_of_the_counts(coding, budget) -> None:
    """Scores and mixtures, from trains, against the integers in the cache; in parts of the channels too."""
    model = spiking_llama(coding=coding, layers=1)
    runner, spy = watched(model, budget)
    runner.score([3, 17, 39, 5])
    parts = 2 if budget == 90 else 1  # of a key or value of 8 channels, 12 tokens in the cache
    assert len(spy.products) == 4 * HEADS * 2 * parts
    for got, wanted in spy.products:
        assert got.any()
        np.testing.assert_array_equal(got, wanted)
