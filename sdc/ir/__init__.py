"""The intermediate representation: Relax with the sdc dialect, lazy weights, and a NumPy evaluator."""
