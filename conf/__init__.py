"""The Hydra configuration groups of plugip."""
