"""The DAVIS measures, and the scoring of masks by them."""
