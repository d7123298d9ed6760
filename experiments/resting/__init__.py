"""Where trained networks stand still."""
