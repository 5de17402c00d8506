"""The subscriptions of a store as they are defined: made, found, changed, reset and deleted, each by a command."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any, Final

from shoal import telemetry
from shoal.errors import InvalidRequest, NotFound
from shoal.model.commands import (
    ChangeSubscription,
    CreateSubscription,
    DeleteSubscription,
    ResetSubscription,
    SubscriptionCommand,
)
from shoal.model.definitions import check_subscription_name, make_definition, make_options
from shoal.model.subscriptions import SubscriptionAnswer, SubscriptionState, subscription_not_found
from shoal.store.api import SubscriptionCheck as Check
from shoal.store.checks import check_range
from shoal.store.context import StoreContext
from shoal.types import MAX_VERSION, Beginning, Subscription, SubscriptionType

COMMAND_BYTES: Final = 256
_SHAPE: Final = ("type", "selector", "start_from")


class DefinedSubscriptions:
    """The part of shoal.store.api.Subscriptions that needs no consumer."""

    _context: StoreContext

    async def create(
        self,
        type: SubscriptionType,  # noqa: A002 - its name in the contract
        selector: Any,
        name: str,
        *,
        start_from: Beginning | int | None = None,
        **options: Any,
    ) -> Subscription:
        """See shoal.store.api.Subscriptions."""
        fields = {"type": type, "selector": selector, **options}
        if start_from is not None:
            fields["start_from"] = start_from
        return (await self.create_or_find(name, fields))[0]

    async def create_or_find(self, name: str, fields: Mapping[str, Any]) -> tuple[Subscription, bool]:
        """As `create`, of fields by name; and whether it was made just now."""
        context = self._context
        check_subscription_name(name, context.limits)
        if "type" not in fields:
            raise InvalidRequest("type is missing: say what the subscription selects by", pointer="/type")
        definition = make_definition(
            fields["type"], fields.get("selector"), fields.get("start_from"), context.limits
        )
        given = {field: value for field, value in fields.items() if field not in _SHAPE}
        options = make_options(given)
        names = [*given, *(["start_from"] if fields.get("start_from") is not None else [])]
        subscriptions = context.memory.subscriptions
        if name not in subscriptions and len(subscriptions) >= context.limits.subscriptions:
            raise InvalidRequest(
                f"the store has {len(subscriptions)} subscriptions, {context.limits.subscriptions} are allowed; "
                "delete some first",
                pointer="/name",
            )
        size = COMMAND_BYTES + len(definition.selector)
        command = CreateSubscription(context.name, name, definition, options, names)
        answer = await self._submit(command, size)
        if answer.created and telemetry.enabled(telemetry.SUBSCRIPTION_CREATED):
            made = answer.state.subscription
            self._tell(
                telemetry.SUBSCRIPTION_CREATED,
                name,
                type=made.type,
                selector=made.selector,
                subscription_name=name,
            )
        return answer.state.subscription, answer.created

    async def update(self, name: str, **options: Any) -> Subscription:
        """See shoal.store.api.Subscriptions."""
        return await self.change(name, options)

    async def change(self, name: str, fields: Mapping[str, Any], check: Check | None = None) -> Subscription:
        """As `update`, of fields by name."""
        fixed = [field for field in fields if field in _SHAPE]
        if fixed:
            raise InvalidRequest(
                f"{fixed[0]} cannot be changed; make another subscription", pointer=f"/{fixed[0]}"
            )
        options = make_options(fields)
        created_us = (await self._meant(name, check)).created_us
        answer = await self._submit(
            ChangeSubscription(self._context.name, name, options, list(fields), created_us)
        )
        return answer.state.subscription

    async def unsubscribe(self, *key: str, check: Check | None = None) -> None:
        """See shoal.store.api.Subscriptions."""
        self._check_key(key)
        await self._meant(key[-1], check)
        state = self._find(key)
        of_type = state.definition.type if len(key) == 2 else None
        await self._submit(DeleteSubscription(self._context.name, state.name, of_type, state.created_us))
        self._tell(telemetry.SUBSCRIPTION_DELETED, state.name)

    async def get(self, *key: str) -> Subscription:
        """See shoal.store.api.Subscriptions."""
        return self._find(key).subscription

    async def exists(self, *key: str) -> bool:
        """See shoal.store.api.Subscriptions."""
        try:
            self._find(key)
        except NotFound:
            return False
        return True

    async def list(self) -> builtins.list[Subscription]:
        """See shoal.store.api.Subscriptions."""
        found = self._context.memory.subscriptions
        return [found[name].subscription for name in sorted(found)]

    async def reset(self, name: str, to: Beginning | int, check: Check | None = None) -> Subscription:
        """See shoal.store.api.Subscriptions."""
        if to not in ("beginning", "end"):
            if type(to) is not int:
                raise InvalidRequest("to is beginning, end or a position", pointer="/to")
            check_range("to", to, 0, MAX_VERSION)
        created_us = (await self._meant(name, check)).created_us
        answer = await self._submit(ResetSubscription(self._context.name, name, to, created_us))
        return answer.state.subscription

    def _check_key(self, key: tuple[str, ...]) -> None:
        if len(key) not in {1, 2} or not all(isinstance(part, str) for part in key):
            raise InvalidRequest(
                "name a subscription by its name, or by its type and its name", pointer="name"
            )

    def _find(self, key: tuple[str, ...]) -> SubscriptionState:
        self._check_key(key)
        state = self._state(key[-1])
        if len(key) == 2 and state.definition.type != key[0]:
            raise subscription_not_found(key[-1])
        return state

    async def _state_here(self, name: str) -> SubscriptionState:
        """As `_state`; what is not here may be committed already, and come in a moment. Raises as `settle_reads`."""
        if name not in self._context.memory.subscriptions:
            await self._context.settle_reads(None)
        return self._state(name)

    async def _meant(self, name: str, check: Check | None) -> SubscriptionState:
        """The one that has the name now, for a command on it and on none that is made later. Raises as `settle_reads`.

        `check` says whether it may be, and raises.
        """
        check_subscription_name(name, self._context.limits)
        await self._context.settle_reads("linearizable")
        state = self._state(name)
        if check is not None:
            check(state.subscription)
        return state

    def _state(self, name: str) -> SubscriptionState:
        check_subscription_name(name, self._context.limits)
        state = self._context.memory.subscriptions.get(name)
        if state is None:
            raise subscription_not_found(name)
        return state

    async def _submit(self, command: SubscriptionCommand, size: int = COMMAND_BYTES) -> SubscriptionAnswer:
        answer: SubscriptionAnswer = await self._context.submit(command, command.name, size)
        return answer

    def _tell(self, event: telemetry.EventName, name: str, **metadata: Any) -> None:
        if telemetry.enabled(event):
            ids = {"store_id": self._context.name, "subscription_id": name}
            telemetry.emit(event, {"system_time": telemetry.system_time()}, ids | metadata)
