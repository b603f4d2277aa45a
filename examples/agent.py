"""An agent that calls graphs, also its own: it decides on a step, looks at what came back, and decides again.

    python -m exotrio run examples/agent.py --graph agent

``decide`` stands for a language model: here it follows a script and needs no network. It splits a question
into others, which runs of the same graph answer; those look up facts by the graph ``lookup``.
While children run, no worker is held, and all of this may be killed and continued with ``--resume RUN``: each
child is started once, and each decision is made once, since it is in the checkpoint.
"""

import re

import anyio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, NoRetry, Runtime

NAMESPACE = "examples"
MAX_ROUNDS = 5
HEIGHTS = {"Mont Blanc": 4806, "Zugspitze": 2962, "Snowdon": 1085}


class Step(BaseModel):
    """A decision: the answer, or which graph to ask what."""

    answer: str | None = None
    ask: str = ""
    questions: list[str] = []


async def decide(question: str, notes: list[str]) -> Step:
    """Decide on the next step. A real model would be asked here, and might answer otherwise the next time."""
    await anyio.sleep(0.1)
    if found := re.fullmatch("Which is higher, (.+) or (.+)?", question.rstrip("?")):
        if not notes:
            return Step(ask="agent", questions=[f"How high is {name}?" for name in found.groups()])
        heights = {name: int(height) for name, height in (note.split(": ") for note in notes)}
        return Step(answer=max(heights, key=lambda name: heights[name]))
    if notes:
        return Step(answer=notes[-1])
    return Step(ask="lookup", questions=[question.removeprefix("How high is ").rstrip("?")])


class Answer(BaseModel):
    """What each graph that the agent asks has as its outputs."""

    text: str


class Agent(BaseNode):
    """Answer a question, in at most ``MAX_ROUNDS`` rounds."""

    class Inputs(BaseModel):
        question: str

    class Checkpoint(BaseModel):
        steps: list[Step] = []

    Outputs = Answer

    async def execute(self) -> Answer:
        steps, notes = list(self.checkpoint.steps), list[str]()
        for number in range(MAX_ROUNDS):
            if number == len(steps):
                steps.append(await decide(self.inputs.question, notes))
                await self.save_checkpoint(self.Checkpoint(steps=steps))
            step = steps[number]
            if step.answer is not None:
                return Answer(text=step.answer)
            children = [self.call(step.ask, {"question": question}) for question in step.questions]
            notes += [child.outputs(Answer).text for child in children]
        raise NoRetry(f"no answer after {MAX_ROUNDS} rounds")


class Lookup(BaseNode):
    """Look up a fact."""

    class Inputs(BaseModel):
        question: str

    Outputs = Answer

    async def execute(self) -> Answer:
        if self.inputs.question not in HEIGHTS:
            raise NoRetry(f"nothing is known about {self.inputs.question}")
        return Answer(text=f"{self.inputs.question}: {HEIGHTS[self.inputs.question]}")


agent = Graph("agent", namespace=NAMESPACE)
answered = agent.add(
    Agent, question=agent.store("question", default="Which is higher, Mont Blanc or Zugspitze?")
)
agent.output("text", answered.text)

lookup = Graph("lookup", namespace=NAMESPACE)
found = lookup.add(Lookup, question=lookup.store("question"))
lookup.output("text", found.text)

runtime = Runtime(namespace=NAMESPACE, name="agent", nodes=[Agent, Lookup])

if __name__ == "__main__":
    runtime.start()
