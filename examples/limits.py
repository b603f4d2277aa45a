"""A service that must not get too many calls: five at once, and two at once for one customer.

    python -m exotrio run examples/limits.py

Thirty orders of three customers are charged by a Runtime with sixteen workers. With several Runtimes, on any
machines, the limits would apply to all of them together. ``Service`` stands for a service elsewhere; it
counts the calls that it gets.
"""

from collections import Counter
from typing import ClassVar

import anyio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime

NAMESPACE = "examples"


class Service:
    """A service somewhere else, with the highest number of calls that it had at once."""

    calls: ClassVar[Counter[str]] = Counter()
    highest: ClassVar[Counter[str]] = Counter()

    @classmethod
    async def charge(cls, customer: str) -> None:
        counted = ("all", customer)
        cls.calls.update(counted)
        cls.highest |= Counter({name: cls.calls[name] for name in counted})
        await anyio.sleep(0.1)
        cls.calls.subtract(counted)


class Shop(BaseNode):
    class Outputs(BaseModel):
        orders: int

    async def execute(self) -> Outputs:
        return self.Outputs(orders=30)


class Orders(BaseNode):
    class Inputs(BaseModel):
        orders: int

    class Outputs(BaseModel):
        customer: str

    async def execute(self) -> list[Outputs]:
        customers = ("ada", "ada", "ada", "grace", "linus")
        return [self.Outputs(customer=customers[number % 5]) for number in range(self.inputs.orders)]


class Charge(BaseNode):
    class Inputs(BaseModel):
        customer: str

    async def execute(self) -> None:
        await Service.charge(self.inputs.customer)


class Report(BaseNode):
    class Outputs(BaseModel):
        at_once: int
        at_once_for_ada: int

    async def execute(self) -> Outputs:
        return self.Outputs(at_once=Service.highest["all"], at_once_for_ada=Service.highest["ada"])


graph = Graph("limits", namespace=NAMESPACE)
service = graph.limit("service", at_most=5)
customer = graph.limit("customer", at_most=2)
shop = graph.add(Shop)
orders = graph.add(Orders, orders=shop.orders)
charge = graph.add(Charge, customer=orders.customer, limits=[service, customer.for_key(orders.customer)])
graph.add(Report, unites=shop, after=charge)

runtime = Runtime(
    namespace=NAMESPACE, name="limits", nodes=[Shop, Orders, Charge, Report], workers=16, batch_size=32
)
