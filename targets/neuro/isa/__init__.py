"""The neuromorphic instruction set, its assembler and its binary container (docs/isa.md)."""
