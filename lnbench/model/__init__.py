"""A causal LM and where its neurons sit: architectures as data, sites in the live model, packaged models."""
