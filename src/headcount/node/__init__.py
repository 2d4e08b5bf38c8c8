"""One process: its sessions, its viewers, and the one door for what clients and operators ask."""
