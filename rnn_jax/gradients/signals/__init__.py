"""The error signal and the weight gradient, by step."""
