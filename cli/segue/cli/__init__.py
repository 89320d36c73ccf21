"""The ``segue`` command. Each module holds one group of commands; options become settings here and nowhere
else."""
