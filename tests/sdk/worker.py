"""A runtime of the stock SDK with one node, until it is killed: ``python worker.py NAMESPACE``."""

import sys

from exospherehost import BaseNode, Runtime
from pydantic import BaseModel


class Text(BaseModel):
    text: str


class Double(BaseNode):
    """Doubles what it takes for a number: to the SDK everything is text."""

    Inputs = Outputs = Text

    async def execute(self):
        return Text(text=str(2 * int(self.inputs.text)))


Runtime(namespace=sys.argv[1], name="stock", nodes=[Double], poll_interval=1).start()
