"""The `tove` command. Its modules import torch only inside the commands that need it."""
