import sys

from e3sn_study.cli import main

if __name__ == "__main__":  # not in processes that are started from this one
    sys.exit(main())
