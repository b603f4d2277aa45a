"""One call of a node: its class and the texts it gets; and the instance that is made of them. What of it is
needed in another process imports nothing of the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from exotrio._execution.error_text import bounded
from exotrio._execution.results import misfit
from exotrio._fields.models import fields_of
from exotrio._nodes.base import BaseNode, StopView
from exotrio._nodes.outcome import Errored
from exotrio._nodes.progress import ProgressView
from exotrio._util.words import readable_errors
from exotrio.errors import FieldsInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCall:
    """What a node is called with.

    Attributes:
        node: Its class.
        inputs: Field to text.
        secrets: Name to value.
        shown: Names the call in the log.
        trace: The trace context of the execution, if it is traced.
    """

    node: type[BaseNode]
    inputs: Mapping[str, object]
    secrets: Mapping[str, str]
    shown: str
    trace: str | None = None

    def instance(self, view: StopView, progress: ProgressView) -> BaseNode | Errored:
        """Return the instance to execute; an error if these texts do not fit its models."""
        node = self.node
        instance = node()
        instance._stop_view = view
        instance._progress_view = progress
        fields = fields_of(node.Inputs)
        try:
            instance.inputs = (
                node.Inputs.model_validate(dict(self.inputs))
                if fields is None
                else fields.decode(self.inputs)
            )
        except (FieldsInvalid, ValidationError) as error:
            head = f"the inputs do not fit {node.__name__}.Inputs:"
            problems = error.problems if isinstance(error, FieldsInvalid) else readable_errors(error)
            return misfit(head, problems, "the inputs stay the same", progress.redactor)
        try:
            instance.secrets = node.Secrets.model_validate(dict(self.secrets))
        except ValidationError as error:
            head = f"the graph's secrets do not fit {node.__name__}.Secrets:"
            text = "\n  ".join([head, *readable_errors(error)])
            # Retried: each attempt reads the secrets anew, and they can be corrected meanwhile.
            return Errored(bounded(progress.redactor.redact(text)))
        return instance
