"""The tiers: a class each, a property a method."""
