"""The bus of _core, with the overloads that tell type checkers what a handler gets.

At run time there is no module of this name, and agent_event_bus.EventBus derives from
_core.EventBus. docs/typing.md says what is checked and what cannot be; tests/typing shows it.

Overloads stand in the order in which they are tried. A call that an early one refuses can still be
accepted by a later one, so what must be refused must fit none.
"""
# Which of several overloads is taken is the point here.
# mypy: disable-error-code="overload-overlap"
# pyright: reportIncompatibleMethodOverride=false, reportOverlappingOverload=false

from collections.abc import Callable, Coroutine
from typing import Any, Literal, overload

from typing_extensions import Unpack

from agent_event_bus import _core
from agent_event_bus._core import Emitter, Event, Outcome, Subscription
from agent_event_bus._types import (
    AHandlerOfEveryEventTakesTheNameAndThePayload,
    AnyList,
    Binary,
    BinaryT,
    Decorator,
    EveryEvent,
    KeyT,
    MixedList,
    Options,
    OptionsOfOnce,
    Payload,
    R,
    T,
    Text,
    TextList,
    TextT,
    Typed,
    TypedList,
    Unary,
    UnaryOrBinaryT,
    UnaryT,
    UnaryWithDefault,
)
from agent_event_bus.keys import EventKey

class EventBus(_core.EventBus):
    @overload  # type: ignore[override]
    def on(
        self,
        key: Typed[T],
        handler: None = None,
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[T]],
    ) -> Decorator[T]: ...
    @overload
    def on(
        self,
        key: Typed[T],
        handler: None = None,
        /,
        *,
        envelope: Literal[True],
        **options: Unpack[Options[T]],
    ) -> Decorator[Event[T]]: ...
    @overload
    def on(
        self,
        key: Typed[T],
        handler: None = None,
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[T]],
    ) -> Decorator[T | Event[T]]: ...
    @overload
    def on(
        self,
        key: EveryEvent,
        handler: None = None,
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Callable[[BinaryT], BinaryT]: ...
    @overload
    def on(
        self,
        key: Text,
        handler: None = None,
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Callable[[UnaryOrBinaryT], UnaryOrBinaryT]: ...
    @overload
    def on(
        self,
        key: Text,
        handler: None = None,
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[Any]],
    ) -> Callable[[UnaryT], UnaryT]: ...
    @overload
    def on(
        self,
        key: Typed[T],
        handler: Callable[[T], R],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[T]],
    ) -> Callable[[T], R]: ...
    @overload
    def on(
        self,
        key: Typed[T],
        handler: Callable[[Event[T]], R],
        /,
        *,
        envelope: Literal[True],
        **options: Unpack[Options[T]],
    ) -> Callable[[Event[T]], R]: ...
    @overload
    def on(
        self,
        key: Typed[T],
        handler: Callable[[T | Event[T]], R],
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[T]],
    ) -> Callable[[T | Event[T]], R]: ...
    @overload
    def on(
        self,
        key: Typed[T],
        handler: UnaryWithDefault[T, R],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[T]],
    ) -> Callable[[T], R]: ...
    @overload
    def on(
        self,
        key: Typed[T],
        handler: UnaryWithDefault[T | Event[T], R],
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[T]],
    ) -> Callable[[Event[T]], R]: ...
    @overload
    def on(
        self,
        key: EveryEvent,
        handler: Binary[R],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Callable[[str, Any], R]: ...
    @overload
    def on(
        self,
        key: EveryEvent,
        handler: Unary[Any, object] | Binary[object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Coroutine[Any, Any, AHandlerOfEveryEventTakesTheNameAndThePayload]: ...
    @overload
    def on(
        self,
        key: Text,
        handler: Unary[Any, object] | Binary[object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Callable[..., Any]: ...
    @overload
    def on(
        self,
        key: Text,
        handler: Unary[Event[Any], R],
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[Any]],
    ) -> Callable[[Event[Any]], R]: ...
    @overload  # type: ignore[override]
    def once(
        self,
        key: Typed[T],
        handler: None = None,
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Decorator[T]: ...
    @overload
    def once(
        self,
        key: Typed[T],
        handler: None = None,
        /,
        *,
        envelope: Literal[True],
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Decorator[Event[T]]: ...
    @overload
    def once(
        self,
        key: Typed[T],
        handler: None = None,
        /,
        *,
        envelope: bool,
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Decorator[T | Event[T]]: ...
    @overload
    def once(
        self,
        key: EveryEvent,
        handler: None = None,
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[Any]],
    ) -> Callable[[BinaryT], BinaryT]: ...
    @overload
    def once(
        self,
        key: Text,
        handler: None = None,
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[Any]],
    ) -> Callable[[UnaryOrBinaryT], UnaryOrBinaryT]: ...
    @overload
    def once(
        self,
        key: Text,
        handler: None = None,
        /,
        *,
        envelope: bool,
        **options: Unpack[OptionsOfOnce[Any]],
    ) -> Callable[[UnaryT], UnaryT]: ...
    @overload
    def once(
        self,
        key: Typed[T],
        handler: Callable[[T], R],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Callable[[T], R]: ...
    @overload
    def once(
        self,
        key: Typed[T],
        handler: Callable[[Event[T]], R],
        /,
        *,
        envelope: Literal[True],
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Callable[[Event[T]], R]: ...
    @overload
    def once(
        self,
        key: Typed[T],
        handler: Callable[[T | Event[T]], R],
        /,
        *,
        envelope: bool,
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Callable[[T | Event[T]], R]: ...
    @overload
    def once(
        self,
        key: Typed[T],
        handler: UnaryWithDefault[T, R],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Callable[[T], R]: ...
    @overload
    def once(
        self,
        key: Typed[T],
        handler: UnaryWithDefault[T | Event[T], R],
        /,
        *,
        envelope: bool,
        **options: Unpack[OptionsOfOnce[T]],
    ) -> Callable[[Event[T]], R]: ...
    @overload
    def once(
        self,
        key: EveryEvent,
        handler: Binary[R],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[Any]],
    ) -> Callable[[str, Any], R]: ...
    @overload
    def once(
        self,
        key: EveryEvent,
        handler: Unary[Any, object] | Binary[object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[Any]],
    ) -> Coroutine[Any, Any, AHandlerOfEveryEventTakesTheNameAndThePayload]: ...
    @overload
    def once(
        self,
        key: Text,
        handler: Unary[Any, object] | Binary[object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[OptionsOfOnce[Any]],
    ) -> Callable[..., Any]: ...
    @overload
    def once(
        self,
        key: Text,
        handler: Unary[Event[Any], R],
        /,
        *,
        envelope: bool,
        **options: Unpack[OptionsOfOnce[Any]],
    ) -> Callable[[Event[Any]], R]: ...
    @overload  # type: ignore[override]
    def subscribe(
        self,
        key: Typed[T],
        handler: Callable[[T], object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[T]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        key: Typed[T],
        handler: Callable[[Event[T]], object],
        /,
        *,
        envelope: Literal[True],
        **options: Unpack[Options[T]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        key: Typed[T],
        handler: Callable[[T | Event[T]], object],
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[T]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        key: Typed[T],
        handler: UnaryWithDefault[T, object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[T]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        key: Typed[T],
        handler: UnaryWithDefault[T | Event[T], object],
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[T]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        key: EveryEvent,
        handler: Binary[object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        key: EveryEvent,
        handler: Unary[Any, object] | Binary[object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Coroutine[Any, Any, AHandlerOfEveryEventTakesTheNameAndThePayload]: ...
    @overload
    def subscribe(
        self,
        key_or_keys: Text | TextList[TextT],
        handler: Unary[Any, object] | Binary[object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        keys: TypedList[T],
        handler: Callable[[T], object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[T]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        keys: MixedList,
        handler: Unary[Any, object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Subscription: ...
    @overload
    def subscribe(  # a variable of some of the types of keys: list[str | type[Any]]
        self,
        keys: list[KeyT],
        handler: Unary[Any, object],
        /,
        *,
        envelope: Literal[False] = False,
        **options: Unpack[Options[Any]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        keys: TypedList[T],
        handler: Callable[[Event[T]], object],
        /,
        *,
        envelope: Literal[True],
        **options: Unpack[Options[T]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        key_or_keys: Text | AnyList,
        handler: Unary[Event[Any], object],
        /,
        *,
        envelope: bool,
        **options: Unpack[Options[Any]],
    ) -> Subscription: ...
    @overload  # type: ignore[override]
    def emit(self, name: EventKey[T], payload: Payload[T], /) -> int: ...
    @overload
    def emit(self, name: EventKey[T | None], /) -> int: ...
    @overload
    def emit(self, name: Text, payload: Any = None, /) -> int: ...
    @overload  # type: ignore[override]
    def emit_async(self, name: EventKey[T], payload: Payload[T], /) -> Coroutine[Any, Any, int]: ...
    @overload
    def emit_async(self, name: EventKey[T | None], /) -> Coroutine[Any, Any, int]: ...
    @overload
    def emit_async(self, name: Text, payload: Any = None, /) -> Coroutine[Any, Any, int]: ...
    @overload  # type: ignore[override]
    def collect(self, name: EventKey[T], payload: Payload[T]) -> list[Outcome]: ...
    @overload
    def collect(self, name: EventKey[T | None]) -> list[Outcome]: ...
    @overload
    def collect(self, name: Text, payload: Any = None) -> list[Outcome]: ...
    @overload  # type: ignore[override]
    def collect_async(
        self, name: EventKey[T], payload: Payload[T]
    ) -> Coroutine[Any, Any, list[Outcome]]: ...
    @overload
    def collect_async(self, name: EventKey[T | None]) -> Coroutine[Any, Any, list[Outcome]]: ...
    @overload
    def collect_async(
        self, name: Text, payload: Any = None
    ) -> Coroutine[Any, Any, list[Outcome]]: ...
    @overload  # type: ignore[override, unused-ignore]
    def emitter(self, name: EventKey[T]) -> Emitter[T]: ...
    @overload
    def emitter(self, name: Text) -> Emitter[Any]: ...
    @overload  # type: ignore[override]
    def history(self, key: Typed[T], limit: int | None = 100) -> list[Event[T]]: ...
    @overload
    def history(self, key: Text | None = None, limit: int | None = 100) -> list[Event[Any]]: ...
