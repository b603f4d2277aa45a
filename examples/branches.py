"""Orders that take different ways: books are shipped, ebooks are sent, and anything else is refused.

    python -m exotrio run examples/branches.py --store order="book of hours"
    python -m exotrio run examples/branches.py --store order="ebook of hours"
    python -m exotrio run examples/branches.py --store order="gift card"

The run creates states only on the branch that is taken. What was shipped or sent is billed; after a refusal
nothing else runs, and the run is a success all the same.
"""

from enum import Enum

from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime

NAMESPACE = "examples"


class Text(BaseModel):
    text: str


class Order(BaseNode):
    Inputs = Text
    Outputs = Text

    async def execute(self) -> Text:
        return Text(text=self.inputs.text)


class Kind(Enum):
    BOOK = "book"
    EBOOK = "ebook"
    GIFT = "gift"


class Check(BaseNode):
    class Inputs(BaseModel):
        order: str

    class Outputs(BaseModel):
        kind: Kind

    async def execute(self) -> Outputs:
        return self.Outputs(kind=Kind(self.inputs.order.split()[0]))


class Step(BaseNode):
    class Inputs(BaseModel):
        order: str

    class Outputs(BaseModel):
        done: str


class Ship(Step):
    async def execute(self) -> Step.Outputs:
        return self.Outputs(done=f"shipped the {self.inputs.order}")


class Send(Step):
    async def execute(self) -> Step.Outputs:
        return self.Outputs(done=f"sent the {self.inputs.order}")


class Refuse(Step):
    async def execute(self) -> Step.Outputs:
        return self.Outputs(done=f"refused the {self.inputs.order}")


class Bill(BaseNode):
    class Inputs(BaseModel):
        shipped: list[str]
        sent: list[str]

    class Outputs(BaseModel):
        bill: str

    async def execute(self) -> Outputs:
        return self.Outputs(bill="; ".join(self.inputs.shipped + self.inputs.sent))


graph = Graph("orders", namespace=NAMESPACE)
order = graph.add(Order, text=graph.store("order", default="book of hours"))
check = graph.add(Check, order=order.text)
ship = graph.add(Ship, order=order.text, after=check, when=check.kind == "book")
send = graph.add(Send, order=order.text, after=check, when=check.kind == "ebook")
refuse = graph.add(Refuse, order=order.text, after=check, otherwise=True)
bill = graph.add(Bill, unites=order, after=[ship, send], shipped=ship.every.done, sent=send.every.done)

runtime = Runtime(namespace=NAMESPACE, name="orders", nodes=[Order, Check, Ship, Send, Refuse, Bill])
