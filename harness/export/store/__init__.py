"""Files on disk: what they are, what they were made from, and where they are kept."""
