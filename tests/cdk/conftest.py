"""Imported before the tests, and so before aws_cdk, which starts Node: the app says which one."""

from deploy.cdk import app

__all__ = ["app"]
