"""Backups of PostgreSQL in S3: an HTTP API and a worker, two Lambda functions from one package."""

__version__ = "0.1.0"
