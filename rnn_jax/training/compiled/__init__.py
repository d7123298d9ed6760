"""Steps as compiled programs, each compiled once a process."""
