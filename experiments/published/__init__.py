"""Published results, one file each."""
