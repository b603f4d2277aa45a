"""What type checkers say of node classes: read by mypy and pyright, never run.

A comment that silences an error is a test that there is one: else both checkers complain of the comment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_type

from pydantic import BaseModel

import exotrio
from exotrio import BaseNode, Child, HandOver

print(exotrio.Runtme)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


class Shared(BaseModel):
    count: int


class Greet(BaseNode):
    class Inputs(BaseModel):
        name: str

    class Outputs(BaseModel):
        text: str

    class Secrets(BaseModel):
        token: str

    async def execute(self) -> Outputs:
        assert_type(self.inputs, Greet.Inputs)
        assert_type(self.secrets.token, str)
        print(self.inputs.nam)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        return self.Outputs(text=self.inputs.name)


class WithoutSecrets(BaseNode):
    Inputs = Shared

    def execute(self) -> None:
        assert_type(self.inputs.count, int)
        assert_type(self.secrets, BaseModel)


class GreetMore(Greet):
    class Inputs(Greet.Inputs):
        times: int

    async def execute(self) -> Greet.Outputs:
        assert_type(self.inputs.times, int)
        assert_type(self.secrets.token, str)
        return self.Outputs(text=self.inputs.name * self.inputs.times)


class Pages(BaseNode):
    class Checkpoint(BaseModel):
        page: int = 0

    async def execute(self) -> None:
        assert_type(self.checkpoint, Pages.Checkpoint)
        assert_type(self.checkpoint.page, int)
        assert_type(self.seconds_left, float)
        self.checkpoint = self.Checkpoint(page=self.checkpoint.page + 1)
        await self.save_checkpoint(self.Checkpoint(page=2))
        await self.save_checkpoint(Rows.Checkpoint(row=2))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        raise HandOver()


class Rows(BaseNode):
    class Checkpoint(BaseModel):
        row: int

    def execute(self) -> None:
        assert_type(self.checkpoint, Rows.Checkpoint | None)
        print(self.checkpoint.row)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
        start = 0 if self.checkpoint is None else self.checkpoint.row
        self.checkpoint = self.Checkpoint(row=start + 1)
        self.save_checkpoint_sync(self.Checkpoint(row=start + 2))


class WithoutCheckpoint(BaseNode):
    def execute(self) -> None:
        print(self.checkpoint)  # type: ignore[call-overload]  # pyright: ignore[reportAttributeAccessIssue]


class Asks(BaseNode):
    async def execute(self) -> None:
        child = self.call("other", {"count": 1}, key="first")
        assert_type(child, Child)
        assert_type(child.outputs(), Mapping[str, str])
        assert_type(child.outputs(Shared), Shared)
        assert_type(child.error, str | None)
        self.call(Greet)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        child.outputs(Greet)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def set_up() -> None:
    node = Greet()
    node.inputs = Greet.Inputs(name="Ada")
    node.secrets = Greet.Secrets(token="t")


def fields_of(node: type[BaseNode]) -> list[str]:
    return list(node.Inputs.model_fields)
