"""Room to come."""
