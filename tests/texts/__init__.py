"""Every text that users see, collected into one file: texts.md."""
