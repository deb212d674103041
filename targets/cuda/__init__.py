"""The CUDA target: kernels in TIR for NVIDIA GPUs, one artefact for several architectures."""

from sdc.targets.cuda.target import CudaTarget

__all__ = ["CudaTarget"]
