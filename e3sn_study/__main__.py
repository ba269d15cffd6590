import sys

from e3sn_study.cli import main

sys.exit(main())
