"""Schedules and runs: an HTTP API (`app.create_app`), and a worker (`worker.main`) that makes the runs happen.

A run's way: `due` finds a schedule whose time has come and makes a row in `runs`; the worker puts a step of it on Redis
(`jobs`); `steps` asks the backup API (`backups`) and writes down what it said; `alarms` tells who subscribed when a run
failed. PostgreSQL is the truth, and Redis may be wiped at any moment.
"""
