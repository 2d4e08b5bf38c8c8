"""One process: its sessions, its viewers, and what clients and operators ask of them."""
