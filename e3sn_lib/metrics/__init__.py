"""The DAVIS measures, and scores of masks by them."""
