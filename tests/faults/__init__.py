"""Faults for the tests: a database cluster that may be killed, a network that may fail, and a load that accounts for every
event."""
