"""The command `limbeck`.

What belongs here: the top of the command line, and the commands that belong to no other folder. Commands read options,
call a function of a package and print. Of experiments it knows the command of the baselines alone, and it
loads torch and gRPC only when a command needs them.
"""
