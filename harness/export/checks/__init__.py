"""The checks of tier 4: from exports to evidence."""
