"""A few sequences as data of the user's own."""

import numpy as np

_RNG = np.random.default_rng(0)
COUNT, STEPS = 7, 4
INPUTS = _RNG.normal(size=(COUNT, STEPS, 2))
NUMBERS = _RNG.normal(size=(COUNT, 1))
CLASSES = np.array([0, 1, 2, 0, 0, 1, 0])
LENGTHS = np.array([4, 1, 2, 3, 4, 2, 1])
VALID = np.arange(STEPS) < LENGTHS[:, None]
