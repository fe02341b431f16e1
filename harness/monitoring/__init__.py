"""Monitoring: is a model still as good, and its data still what it was?"""
