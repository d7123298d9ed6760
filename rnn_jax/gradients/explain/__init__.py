"""What the measures mean: attribution, bounds, regime, and gradient flow over all."""
