"""What of a model is trained, and by what."""
