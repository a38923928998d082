"""The paper's tables and figures, each from one shipped spec, beside the published values."""
