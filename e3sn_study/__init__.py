"""The study: it tests the paper's claims with `e3sn_lib`."""
