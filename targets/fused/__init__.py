"""Chains of operations that one kernel computes, found and rebuilt: shared by targets that fuse them."""
