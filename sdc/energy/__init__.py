"""Energy: what a model's operations and bytes cost, by published tables, in any format.

work = llama_work(find_shape("llama2-7b"), keys=512.5)
account(work, dense_format("int8"), HOROWITZ_45NM, batch=1024).everything
"""

from sdc.energy.account import COMPONENTS, Account, OpAccount, account
from sdc.energy.compare import Comparison, compare
from sdc.energy.factors import Factors, factors
from sdc.energy.formats import DENSE, Format, dense_format, sdc_format, spikellm_format, spiking_format
from sdc.energy.paper import PaperRow, implied_spikes, paper_rows
from sdc.energy.program import dense_twin, program_entries, program_format, program_work
from sdc.energy.shapes import ARCHITECTURES, find_shape, llama_work
from sdc.energy.tables import HOROWITZ_45NM, JOUPPI_7NM, SDLLM_PAPER, TABLES, EnergyTable, find_table
from sdc.energy.work import Other, Product, Work

__all__ = [
    "ARCHITECTURES",
    "COMPONENTS",
    "DENSE",
    "HOROWITZ_45NM",
    "JOUPPI_7NM",
    "SDLLM_PAPER",
    "TABLES",
    "Account",
    "Comparison",
    "EnergyTable",
    "Factors",
    "Format",
    "OpAccount",
    "Other",
    "PaperRow",
    "Product",
    "Work",
    "account",
    "compare",
    "dense_format",
    "dense_twin",
    "factors",
    "find_shape",
    "find_table",
    "implied_spikes",
    "llama_work",
    "paper_rows",
    "program_entries",
    "program_format",
    "program_work",
    "sdc_format",
    "spikellm_format",
    "spiking_format",
]
