"""TIR kernels of the CPU target, generated for shapes and instruction sets."""
