"""The command ``xdreg``, one file for each subcommand.

Read `main`, then `common`, then any subcommand.
"""
