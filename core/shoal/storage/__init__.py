"""What is on disk: the journal, the SQLite database, and one adapter per port."""
