"""The command `limbeck`: what the packages offer on the command line."""
