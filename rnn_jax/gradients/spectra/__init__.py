"""Singular values and Lyapunov exponents of long products."""
