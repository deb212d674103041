"""TIR kernels of the CUDA target, generated for shapes."""
