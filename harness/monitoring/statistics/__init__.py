"""The statistics of drift: of counts and tables, whatever they were counted of."""
