"""The command `limbeck`: assembles what the packages offer."""
