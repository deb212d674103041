"""Where the spikes are: ``python examples/spikes_per_layer.py PROGRAM TEXT`` prints a bar an operation."""

import sys

import sdc

program = sdc.load(sys.argv[1])
fired = program.stats(program.prompt(sys.argv[2], chat=False))
most = max(op["spikes_per_neuron"] for op in fired["ops"])
for op in fired["ops"]:
    bar = "#" * round(40 * op["spikes_per_neuron"] / most)
    print(f"{op['name'][:40]:40} {op['spikes_per_neuron']:6.2f} {bar}")
