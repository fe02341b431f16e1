"""A signature found from one working call of a model, by calling it with inputs of other sizes and contents."""

from harness.tasks.finding.signature import FoundSignature, signature_from_call

__all__ = ["FoundSignature", "signature_from_call"]
