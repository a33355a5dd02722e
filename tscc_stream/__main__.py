"""`python -m tscc_stream`: the same as `tscc-stream`."""

from tscc_stream.cli import program

program()
