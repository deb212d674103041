"""From the spiking Relax module to calls of CUDA kernels."""
