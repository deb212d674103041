"""What sparsity and codings buy on each shipped machine, and how mapping scales with the model.

    python benchmarks/neuro_mapping.py [--scaling MACHINE] [--levels D] [--tokens N]

Prints Markdown tables. Times and energies are simulated; the mapping time is this computer's.
"""

from __future__ import annotations

import argparse

from sdc.targets.neuro.machine import load_machine, shipped_machines
from sdc.targets.neuro.mapping.statistics import SpikeStatistics
from sdc.targets.neuro.simulate.timing_tables import PUBLISHED, coding_table, markdown, scaling_table


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scaling", metavar="MACHINE", help="the scaling table of one machine instead")
    parser.add_argument("--levels", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=8)
    options = parser.parse_args()
    if options.scaling:
        statistics = SpikeStatistics(levels=options.levels)
        rows = scaling_table(load_machine(options.scaling), statistics=statistics, tokens=options.tokens)
        print(markdown(list(rows)))
        print(markdown(PUBLISHED))
        return
    machines = [load_machine(name) for name in shipped_machines()]
    print(markdown(list(coding_table(machines, levels=options.levels, tokens=options.tokens))))


if __name__ == "__main__":
    main()
