"""Parts of `experiments/lyapunov.py` and `experiments/flossing.py`."""
