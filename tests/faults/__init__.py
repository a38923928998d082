"""Faults that users of such tools report: one table per kind, each row an instance, and what lnbench does now."""
