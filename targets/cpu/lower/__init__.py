"""From the spiking Relax module to calls of fused kernels."""
