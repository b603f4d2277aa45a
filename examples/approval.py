"""Ship an order once a person has approved it, by one of two links in a mail.

    python -m exotrio run examples/approval.py --serve 8010

``ask -> approved -> close``. ``ask`` writes a mail with a link to approve and one to refuse; ``approved`` has
no node class: while its state waits, no worker does, and all of this may be killed and continued with
``--resume RUN``. If no answer comes within three days, the order is refused. Instead of a link,
``python -m exotrio runs send RUN approved -i ok=true -i by=ada`` in this folder answers, too.
"""

from datetime import UTC, datetime, timedelta

import anyio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime, StateManager

NAMESPACE = "examples"
MAILS = anyio.Path(".mails")
TIME_TO_ANSWER = timedelta(days=3)


class Approval(BaseModel):
    """The event: its fields are the outputs of the place that waits for it."""

    ok: bool
    by: str


class Ask(BaseNode):
    """Write the mail. It may be written twice; each of its links still counts once."""

    class Inputs(BaseModel):
        order: str
        to: str

    class Outputs(BaseModel):
        order: str

    async def execute(self) -> Outputs:
        until = datetime.now(UTC) + TIME_TO_ANSWER
        lines = [f"To: {self.inputs.to}", f"Subject: Order {self.inputs.order}", ""]
        async with StateManager(NAMESPACE) as manager:
            for name, ok in (("Approve", True), ("Refuse", False)):
                approval = Approval(ok=ok, by=self.inputs.to)
                link = await manager.event_link(self.run_id, "approved", approval, until=until)
                lines.append(f"{name}: {link}")
        await MAILS.mkdir(exist_ok=True)
        mail = MAILS / f"{self.inputs.order}.txt"
        await mail.write_text("\n".join([*lines, ""]), encoding="utf-8")
        print(f"{mail} has the links; nothing is sent before a button on their pages is pressed")
        return self.Outputs(order=self.inputs.order)


class Close(BaseNode):
    """Do what was decided."""

    class Inputs(BaseModel):
        order: str
        ok: bool
        by: str

    class Outputs(BaseModel):
        result: str

    async def execute(self) -> Outputs:
        by = self.inputs.by or "the deadline"
        return self.Outputs(
            result=f"order {self.inputs.order} is {'shipped' if self.inputs.ok else 'refused'}, by {by}"
        )


graph = Graph("approval", namespace=NAMESPACE)
ask = graph.add(
    Ask, order=graph.store("order", default="4711"), to=graph.store("to", default="ada@example.com")
)
approved = graph.wait(
    "approved", Approval, after=ask, timeout=TIME_TO_ANSWER, on_timeout=Approval(ok=False, by="")
)
graph.add(Close, order=ask.order, ok=approved.ok, by=approved.by)

runtime = Runtime(namespace=NAMESPACE, name="approval", nodes=[Ask, Close])

if __name__ == "__main__":
    runtime.start()
