"""The work of a compiled program: shapes from its manifest, spikes from a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sdc.energy.formats import DENSE, Format, spikellm_format, spiking_format
from sdc.energy.work import Other, Product, Work
from sdc.errors import ConfigError

__all__ = ["dense_twin", "program_entries", "program_format", "program_work"]


def program_work(
    manifest: Mapping[str, Any], firing: Mapping[str, Any], context: float | None = None
) -> Work:
    """One token of a program.

    Args:
        manifest: Of the artefact.
        firing: What ``sdc eval --json`` reports, or :meth:`sdc.targets.firing.Firing.summary`: ``ops``,
            ``tokens`` and, where they were counted, ``probabilities``.
        context: Keys that a query meets; None: as the firing was measured, on average.

    Raises:
        ConfigError: The firing is of another program, or the program is no language model.
    """
    model = manifest["model"]
    if model["kind"] != "decoder":
        raise ConfigError("energy is counted for language models; this program is a graph without tokens")
    tokens = firing["tokens"]
    fired = {row["name"]: row for row in firing["ops"]}
    missing = [op["name"] for op in manifest["ops"] if op["kind"] == "linear" and op["name"] not in fired]
    if missing:
        raise ConfigError(f"the statistics do not hold {missing[0]}: they are of another program")
    probabilities = {row["name"]: row for row in firing.get("probabilities", ())}
    keys = context or _keys_met(firing, probabilities)
    products: list[Product] = []
    for op in manifest["ops"]:
        if op["kind"] == "linear":
            products.append(_linear(op, fired[op["name"]], tokens))
        elif op["kind"] == "attention":
            products += _attention(op, fired, probabilities, model, keys, tokens)
    return Work(model["name"], keys, tuple(products), _others(manifest, keys))


def program_entries(manifest: Mapping[str, Any], firing: Mapping[str, Any]) -> list[tuple[Work, Format]]:
    """The program, and what its products would be in other formats. Raises as :func:`program_work`."""
    work, own = program_work(manifest, firing), program_format(manifest, firing)
    twin = dense_twin(work)
    linears = [op for op in manifest["ops"] if op["kind"] == "linear"]
    binary = spikellm_format(_most(linears, "levels"), weight_bits=own.weight_bits)
    return [(work, own), (twin, binary), *((twin, form) for form in DENSE)]


def program_format(manifest: Mapping[str, Any], firing: Mapping[str, Any]) -> Format:
    """The format that the program is in; widths and time steps are those of most linears' synapses."""
    config = manifest["config"]
    linears = [op for op in manifest["ops"] if op["kind"] == "linear"]
    largest = max(linears, key=lambda op: op["synapses"])
    steps = _most(linears, "time_steps")
    spikes = float(firing["spikes_per_neuron"])
    kv_bits = max(int(config["kv_levels"]).bit_length() + 1, 1)
    name = f"{largest['coding']} D={_most(linears, 'levels')}"
    return spiking_format(
        name, steps, spikes, weight_bits=_most(linears, "weight_bits"), kv_bits=kv_bits, source="measured"
    )


def dense_twin(work: Work) -> Work:
    """The same products without spikes and at no given width: what a dense format would have to do."""
    bare = [
        replace(p, spikes=None, synops=None, weight_bits=None, time_steps=None, scales=0)
        for p in work.products
    ]
    return replace(work, products=tuple(bare))


def _linear(op: Mapping[str, Any], fired: Mapping[str, Any], tokens: int) -> Product:
    groups = max(1, op["inputs"] // max(1, op["group"]))
    return Product(
        op["name"],
        op["inputs"],
        op["synapses"],
        op["outputs"],
        weights=op["synapses"],
        weight_bits=op["weight_bits"],
        spikes=fired["spikes"] / tokens,
        synops=fired["synops_per_token"],
        time_steps=op["time_steps"],
        scales=op["outputs"] * groups,
    )


def _attention(
    op: Mapping[str, Any],
    fired: Mapping[str, Any],
    probabilities: Mapping[str, Any],
    model: Mapping[str, Any],
    keys: float,
    tokens: int,
) -> list[Product]:
    """Queries meeting keys, probabilities meeting values; synops grow with the keys that are met."""
    name, size = op["name"], model["head_dim"]
    channels, cached = model["heads"] * size, model["kv_heads"] * size
    row, mixed = fired.get(name), probabilities.get(name)
    spikes = row["spikes"] / tokens if row else None
    score = Product(
        f"{name}:q",
        channels,
        channels * keys,
        model["heads"] * keys,
        cached=cached * keys,
        appended=cached,
        spikes=spikes,
        synops=None if spikes is None else spikes * keys,
        time_steps=op["time_steps"],
    )
    spikes = mixed["spikes_per_neuron"] * model["heads"] * keys if mixed else None
    mix = Product(
        f"{name}:p",
        model["heads"] * keys,
        channels * keys,
        channels,
        cached=cached * keys,
        appended=cached,
        spikes=spikes,
        synops=None if spikes is None else spikes * size,
        time_steps=mixed["time_steps"] if mixed else None,
        probabilities=True,
    )
    return [score, mix]


def _keys_met(firing: Mapping[str, Any], probabilities: Mapping[str, Any]) -> float:
    """Mean keys that a token met: from counted probabilities, else from the windows."""
    for row in probabilities.values():
        return float(row["keys"])
    windows = max(1, int(firing.get("windows", 1)))
    return (firing["tokens"] / windows + 1) / 2


SPIKING_ONLY = ("sdc.hadamard", "sdc.spike_encode", "sdc.readout")


def _others(manifest: Mapping[str, Any], keys: float) -> tuple[Other, ...]:
    """What the certificate lists besides the products, by kind; softmax scaled to the keys that are met."""
    certificate = manifest["certificate"]
    scale = keys / certificate["context"]
    totals: dict[str, list[float]] = {}
    for op in certificate["ops"]:
        row = totals.setdefault(op["kind"], [0.0, 0.0, 0.0])
        attention = op["kind"] == "sdc.spike_attention"
        factor = scale if attention else 1.0
        row[0] += (op["additions"] - op["synapses"]) * factor
        row[1] += op["multiplications"] * factor
        row[2] += op["nonlinear"] * factor
    return tuple(
        Other(_plain(kind), row[0], row[1], row[2], spiking_only=kind in SPIKING_ONLY)
        for kind, row in totals.items()
        if any(row)
    )


def _plain(kind: str) -> str:
    return "softmax" if kind == "sdc.spike_attention" else kind.removeprefix("sdc.").removeprefix("nn.")


def _most(ops: Sequence[Mapping[str, Any]], what: str) -> int:
    """The value that most synapses have."""
    weights: dict[int, int] = {}
    for op in ops:
        weights[op[what]] = weights.get(op[what], 0) + op["synapses"]
    return max(weights, key=lambda value: weights[value])
