"""Compiled inner loops over many channels and records, each bitwise equal to the plain code that it stands in for."""
