"""What the command line stands on, without click: load, the terminal view, the rollout gate, doctor."""
