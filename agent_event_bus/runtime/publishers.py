"""A method for each kind of event that a runtime publishes: ``await bus.emit_node_stalled(...)``.

Each says in its signature what the event has to have, builds it, and publishes it. Their docstrings
are what the event says; what they return and raise is that of ``publish``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from typing import Any

from agent_event_bus.runtime.events import AgentEvent, EventType

__all__ = ["Publishers"]

Data = Mapping[str, Any]


class Publishers(ABC):
    """The publishers of a bus that can ``publish``."""

    @abstractmethod
    async def publish(self, event: AgentEvent) -> int:
        """Publish an event; return how many handlers were called."""

    def _event(
        self,
        event_type: EventType,
        stream_id: str,
        node_id: str | None = None,
        execution_id: str | None = None,
        correlation_id: str | None = None,
        /,
        **data: Any,
    ) -> Coroutine[Any, Any, int]:
        """Return the publication of an event that has this data."""
        event = AgentEvent(
            event_type, stream_id, node_id, execution_id, data, correlation_id=correlation_id
        )
        return self.publish(event)

    async def emit_execution_started(
        self,
        stream_id: str,
        execution_id: str,
        input_data: Data | None = None,
        correlation_id: str | None = None,
    ) -> int:
        """An execution has begun, with this input."""
        return await self._event(
            EventType.EXECUTION_STARTED,
            stream_id,
            None,
            execution_id,
            correlation_id,
            input=_given(input_data),
        )

    async def emit_execution_completed(
        self,
        stream_id: str,
        execution_id: str,
        output: Data | None = None,
        correlation_id: str | None = None,
    ) -> int:
        """An execution is over, with this output."""
        return await self._event(
            EventType.EXECUTION_COMPLETED,
            stream_id,
            None,
            execution_id,
            correlation_id,
            output=_given(output),
        )

    async def emit_execution_failed(
        self, stream_id: str, execution_id: str, error: str, correlation_id: str | None = None
    ) -> int:
        """An execution has failed, for this reason."""
        return await self._event(
            EventType.EXECUTION_FAILED, stream_id, None, execution_id, correlation_id, error=error
        )

    async def emit_execution_paused(
        self, stream_id: str, node_id: str, reason: str = "", execution_id: str | None = None
    ) -> int:
        """An execution is paused at a node."""
        return await self._event(
            EventType.EXECUTION_PAUSED, stream_id, node_id, execution_id, reason=reason
        )

    async def emit_execution_resumed(
        self, stream_id: str, node_id: str, execution_id: str | None = None
    ) -> int:
        """A paused execution goes on."""
        return await self._event(EventType.EXECUTION_RESUMED, stream_id, node_id, execution_id)

    async def emit_goal_progress(
        self, stream_id: str, progress: float, criteria_status: Data
    ) -> int:
        """How far the goal is reached, from 0 to 1, and how each criterion stands."""
        return await self._event(
            EventType.GOAL_PROGRESS, stream_id, progress=progress, criteria_status=criteria_status
        )

    async def emit_constraint_violation(
        self, stream_id: str, execution_id: str, constraint_id: str, description: str
    ) -> int:
        """A constraint was violated."""
        return await self._event(
            EventType.CONSTRAINT_VIOLATION,
            stream_id,
            None,
            execution_id,
            constraint_id=constraint_id,
            description=description,
        )

    async def emit_state_changed(
        self,
        stream_id: str,
        execution_id: str,
        key: str,
        old_value: Any,
        new_value: Any,
        scope: str,
    ) -> int:
        """A key of the shared state has another value."""
        return await self._event(
            EventType.STATE_CHANGED,
            stream_id,
            None,
            execution_id,
            key=key,
            old_value=old_value,
            new_value=new_value,
            scope=scope,
        )

    async def emit_node_loop_started(
        self,
        stream_id: str,
        node_id: str,
        execution_id: str | None = None,
        max_iterations: int | None = None,
    ) -> int:
        """A node begins its loop."""
        return await self._event(
            EventType.NODE_LOOP_STARTED,
            stream_id,
            node_id,
            execution_id,
            max_iterations=max_iterations,
        )

    async def emit_node_loop_iteration(
        self, stream_id: str, node_id: str, iteration: int, execution_id: str | None = None
    ) -> int:
        """A node begins an iteration of its loop."""
        return await self._event(
            EventType.NODE_LOOP_ITERATION, stream_id, node_id, execution_id, iteration=iteration
        )

    async def emit_node_loop_completed(
        self, stream_id: str, node_id: str, iterations: int, execution_id: str | None = None
    ) -> int:
        """A node has ended its loop, after so many iterations."""
        return await self._event(
            EventType.NODE_LOOP_COMPLETED, stream_id, node_id, execution_id, iterations=iterations
        )

    async def emit_llm_text_delta(
        self,
        stream_id: str,
        node_id: str,
        content: str,
        snapshot: str,
        execution_id: str | None = None,
    ) -> int:
        """A model has produced more text; the snapshot is all of it so far."""
        return await self._event(
            EventType.LLM_TEXT_DELTA,
            stream_id,
            node_id,
            execution_id,
            content=content,
            snapshot=snapshot,
        )

    async def emit_llm_reasoning_delta(
        self, stream_id: str, node_id: str, content: str, execution_id: str | None = None
    ) -> int:
        """A model has produced more of its reasoning."""
        return await self._event(
            EventType.LLM_REASONING_DELTA, stream_id, node_id, execution_id, content=content
        )

    async def emit_tool_call_started(
        self,
        stream_id: str,
        node_id: str,
        tool_use_id: str,
        tool_name: str,
        tool_input: Data | None = None,
        execution_id: str | None = None,
    ) -> int:
        """A tool is called."""
        return await self._event(
            EventType.TOOL_CALL_STARTED,
            stream_id,
            node_id,
            execution_id,
            tool_use_id=tool_use_id,
            tool_name=tool_name,
            tool_input=_given(tool_input),
        )

    async def emit_tool_call_completed(
        self,
        stream_id: str,
        node_id: str,
        tool_use_id: str,
        tool_name: str,
        result: Any = "",
        is_error: bool = False,
        execution_id: str | None = None,
    ) -> int:
        """A tool has answered."""
        return await self._event(
            EventType.TOOL_CALL_COMPLETED,
            stream_id,
            node_id,
            execution_id,
            tool_use_id=tool_use_id,
            tool_name=tool_name,
            result=result,
            is_error=is_error,
        )

    async def emit_client_output_delta(
        self,
        stream_id: str,
        node_id: str,
        content: str,
        snapshot: str,
        execution_id: str | None = None,
    ) -> int:
        """There is more to show to the client; the snapshot is all of it so far."""
        return await self._event(
            EventType.CLIENT_OUTPUT_DELTA,
            stream_id,
            node_id,
            execution_id,
            content=content,
            snapshot=snapshot,
        )

    async def emit_client_input_requested(
        self, stream_id: str, node_id: str, prompt: str = "", execution_id: str | None = None
    ) -> int:
        """A node asks the client for input."""
        return await self._event(
            EventType.CLIENT_INPUT_REQUESTED, stream_id, node_id, execution_id, prompt=prompt
        )

    async def emit_node_internal_output(
        self, stream_id: str, node_id: str, content: str, execution_id: str | None = None
    ) -> int:
        """A node has produced output that is not for the client."""
        return await self._event(
            EventType.NODE_INTERNAL_OUTPUT, stream_id, node_id, execution_id, content=content
        )

    async def emit_node_stalled(
        self, stream_id: str, node_id: str, reason: str = "", execution_id: str | None = None
    ) -> int:
        """A node makes no progress."""
        return await self._event(
            EventType.NODE_STALLED, stream_id, node_id, execution_id, reason=reason
        )

    async def emit_node_input_blocked(
        self, stream_id: str, node_id: str, prompt: str = "", execution_id: str | None = None
    ) -> int:
        """A node waits for input that nobody is there to give."""
        return await self._event(
            EventType.NODE_INPUT_BLOCKED, stream_id, node_id, execution_id, prompt=prompt
        )

    async def emit_tool_doom_loop(
        self, stream_id: str, node_id: str, description: str = "", execution_id: str | None = None
    ) -> int:
        """A node calls the same tools again and again."""
        return await self._event(
            EventType.NODE_TOOL_DOOM_LOOP, stream_id, node_id, execution_id, description=description
        )

    async def emit_judge_verdict(
        self,
        stream_id: str,
        node_id: str,
        action: str,
        feedback: str = "",
        judge_type: str = "implicit",
        iteration: int = 0,
        execution_id: str | None = None,
    ) -> int:
        """The judge of a node has decided."""
        return await self._event(
            EventType.JUDGE_VERDICT,
            stream_id,
            node_id,
            execution_id,
            action=action,
            feedback=feedback,
            judge_type=judge_type,
            iteration=iteration,
        )

    async def emit_output_key_set(
        self, stream_id: str, node_id: str, key: str, execution_id: str | None = None
    ) -> int:
        """A node has set one of its outputs."""
        return await self._event(
            EventType.OUTPUT_KEY_SET, stream_id, node_id, execution_id, key=key
        )

    async def emit_node_retry(
        self,
        stream_id: str,
        node_id: str,
        retry_count: int,
        max_retries: int,
        error: str = "",
        execution_id: str | None = None,
    ) -> int:
        """A node is tried again."""
        return await self._event(
            EventType.NODE_RETRY,
            stream_id,
            node_id,
            execution_id,
            retry_count=retry_count,
            max_retries=max_retries,
            error=error,
        )

    async def emit_edge_traversed(
        self,
        stream_id: str,
        source_node: str,
        target_node: str,
        edge_condition: str = "",
        execution_id: str | None = None,
    ) -> int:
        """The run goes from one node to the next."""
        return await self._event(
            EventType.EDGE_TRAVERSED,
            stream_id,
            source_node,
            execution_id,
            source_node=source_node,
            target_node=target_node,
            edge_condition=edge_condition,
        )

    async def emit_webhook_received(
        self,
        source_id: str,
        path: str,
        method: str,
        headers: Mapping[str, str],
        payload: Any,
        query_params: Mapping[str, str] | None = None,
    ) -> int:
        """A webhook was called."""
        return await self._event(
            EventType.WEBHOOK_RECEIVED,
            source_id,
            path=path,
            method=method,
            headers=headers,
            payload=payload,
            query_params=_given(query_params),
        )

    async def emit_escalation_requested(
        self,
        stream_id: str,
        node_id: str,
        reason: str = "",
        context: str = "",
        execution_id: str | None = None,
    ) -> int:
        """A node asks for somebody who can decide."""
        return await self._event(
            EventType.ESCALATION_REQUESTED,
            stream_id,
            node_id,
            execution_id,
            reason=reason,
            context=context,
        )


def _given(value: Any) -> Any:
    """Return what was given; an empty ``dict`` for None."""
    return {} if value is None else value
