"""What stands between a store and the log it applies: for one board, the group of one voter."""
