"""Parts of the main job, `experiments/vanishing_gradient.py`."""
