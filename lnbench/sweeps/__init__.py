"""Sweeps: a YAML spec becomes cells, an executor runs each once, and every result is one line of ``records.jsonl``."""
