"""Live figures as observable values, for programs."""
