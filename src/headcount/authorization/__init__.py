"""Who may see the figures: the hook, the token, and how they are asked."""
