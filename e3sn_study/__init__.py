"""The study: what puts the paper to the test with `e3sn_lib`."""
