"""What must hold of a model's training, one file a family: from a trial to evidence."""
