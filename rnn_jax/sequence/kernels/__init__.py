"""Recurrences and their transposes as one kernel each on a graphics card."""
