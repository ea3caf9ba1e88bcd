"""python -m rlreward VERB ..., the same as the command rlreward."""

from rlreward.cli import main

raise SystemExit(main())
