"""What all stacks have in common."""

from typing import Any

from aws_cdk import BootstraplessSynthesizer


def by_cloudformation_alone(description: str) -> dict[str, Any]:
    """A stack without assets, so for any account, bootstrapped or not, and nobody deletes it by mistake."""
    return {
        "description": description,
        "synthesizer": BootstraplessSynthesizer(),
        "termination_protection": True,
    }
