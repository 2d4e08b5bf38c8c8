"""The other processes: whose figures this node asks for, whom it sends its own, and who is alive."""
