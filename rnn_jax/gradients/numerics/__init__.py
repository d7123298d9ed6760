"""Numbers and matrices far beyond the range of their type, and statistics: no network in here."""
