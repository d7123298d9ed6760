"""Jacobians between any two steps: dense, as norms, as operators, as estimates."""
