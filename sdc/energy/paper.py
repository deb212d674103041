"""The energy table of SDLLM (arXiv 2604.16475) for LLaMA-2-7B, taken apart.

The paper gives FP16 31.77 J, DuQuant (W4A4) 3.97 J and SDLLM 0.67 J. What it counts was found by solving for
it. One reading gives the first two to all printed digits: 1024 tokens, all linear layers but the head, both
attention products with *all* 1024 keys for each query (masked ones included), and the 45 nm *float32*
multiply-add of 4.6 pJ (Horowitz, ISSCC 2014: 3.7 + 0.9) for FP16; 4-bit numbers at 4 / 32 of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sdc.energy.account import account
from sdc.energy.formats import Format, dense_format
from sdc.energy.shapes import find_shape, llama_work
from sdc.energy.tables import HOROWITZ_45NM, JOUPPI_7NM, SDLLM_PAPER, EnergyTable

__all__ = ["PUBLISHED", "TOKENS", "PaperRow", "implied_spikes", "paper_rows"]

TOKENS = 1024
"""Length of the sequence that the published figures come out of."""

PUBLISHED = {"fp16": 31.77, "w4a4": 3.97, "sdllm": 0.67}
"""Joules, arXiv 2604.16475; "w4a4" is its DuQuant row."""


@dataclass(frozen=True)
class PaperRow:
    """One format.

    Attributes:
        published: The paper's joules; None where it has none.
        convention: Our count by the paper's convention, joules.
        compute_only: The same products at the energies of the 45 nm and the 7 nm table, joules.
        everything: All components, prompt of the same length, causal attention, head included, joules.
        remark: What explains the difference.
    """

    format: str
    published: float | None
    convention: float
    compute_only: tuple[float, float]
    everything: tuple[float, float]
    remark: str


def implied_spikes(pj_per_spike: float) -> float:
    """T * R that makes the published 0.67 J of additions of a given energy each."""
    work = llama_work(find_shape("llama2-7b"), TOKENS, head=False)
    return PUBLISHED["sdllm"] / (work.synapses * TOKENS * pj_per_spike * 1e-12)


def paper_rows(formats: tuple[Format, ...] = ()) -> list[PaperRow]:
    """The paper's formats and ``formats``, by its convention and by ours."""
    sdllm = _sdllm()
    rows = [
        _row(dense_format("fp16"), PUBLISHED["fp16"], "matches: a float32 multiply-add is charged for FP16"),
        _row(
            dense_format("w4a4"), PUBLISHED["w4a4"], "matches at 4/32 of the float32 multiply-add (0.575 pJ)"
        ),
        _row(
            sdllm,
            PUBLISHED["sdllm"],
            f"matches if T * R = {sdllm.spikes_per_neuron:.2f} at 0.1125 pJ a spike",
        ),
    ]
    return rows + [_row(form, None, form.source) for form in formats]


def _sdllm() -> Format:
    """4-bit additions in float32's proportion; T * R is what the published sum leaves over."""
    spikes = implied_spikes(SDLLM_PAPER.add["int4"])
    return Format("sdllm", "", "int4", 4, 32, 4, 7, spikes, source="T * R solved for")


def _row(form: Format, published: float | None, remark: str) -> PaperRow:
    shape = find_shape("llama2-7b")
    narrow = llama_work(shape, TOKENS, head=False)
    whole = llama_work(shape, (TOKENS + 1) / 2)
    real = _at_published_width(form)

    def joules(table: EnergyTable) -> tuple[float, float]:
        made = account(whole, real, table, batch=TOKENS)
        return TOKENS * made.compute_only * 1e-12, TOKENS * made.everything * 1e-12

    both = [joules(table) for table in (HOROWITZ_45NM, JOUPPI_7NM)]
    convention = TOKENS * account(narrow, _by_convention(form), SDLLM_PAPER).compute_only * 1e-12
    return PaperRow(
        form.name, published, convention, (both[0][0], both[1][0]), (both[0][1], both[1][1]), remark
    )


def _by_convention(form: Format) -> Format:
    """Additions as narrow as the weights: the paper scales an operation with its operand's bits."""
    narrow = {4: "int4", 8: "int8", 16: "fp16"}[form.weight_bits]
    return replace(form, accumulate=narrow)


def _at_published_width(form: Format) -> Format:
    """Integer products end in int32 accumulators."""
    return form if form.accumulate == "fp16" else replace(form, accumulate="int32")
