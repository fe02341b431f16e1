"""Health reports: checks, their score, and how they are shown."""
