"""Simulators of core programs: functional (bit-exact), timing and energy."""
