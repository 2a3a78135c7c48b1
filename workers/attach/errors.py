"""What attach cannot do, said to the user."""

from evenload.pipeline.errors import SpecError


class AttachError(SpecError):
    """The model, the rule or the call does not fit. The message names module, value and remedy;
    the model is as it was."""
