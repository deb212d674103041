"""From spiking Relax modules to core programs."""
