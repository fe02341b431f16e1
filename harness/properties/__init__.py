"""What tiers 1 and 2 compute: functions from a subject and the sizes of an example to evidence, one file a family."""
