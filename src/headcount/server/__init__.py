"""`headcount serve`: the standalone server and the supervisor of its workers."""
